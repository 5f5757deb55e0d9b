package softhsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Adopt gives the guard to the tokens of a SoftHSM that is configured by whom it
// belongs to, and puts back what a kill has destroyed of them since the last
// login. The copies are kept in guarded, which is made if it is missing. A module
// that is not SoftHSM gives nil, and so does one that keeps tokens in a database,
// which looks after itself.
func Adopt(module, guarded string) (*Token, error) {
	files, ok, err := FilesOf(module, guarded)
	if err != nil || !ok {
		return nil, err
	}
	if err := os.Mkdir(guarded, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the directory of copies of SoftHSM's files: %w", err)
	}
	return &Token{Files: files, Module: module}, files.restore()
}

// FilesOf gives the files of a SoftHSM that is configured by whom it belongs to,
// as Adopt would guard them; false if there is nothing to guard. It changes
// nothing.
func FilesOf(module, guarded string) (Files, bool, error) {
	if !isSoftHSM(module) {
		return Files{}, false, nil
	}
	path := configurationPath()
	text, err := os.ReadFile(path)
	if err != nil {
		return Files{}, false, fmt.Errorf("SoftHSM's configuration: %w: name another file in token.softhsm_conf or SOFTHSM2_CONF, or let this user read this one", err)
	}
	c := parseConfiguration(string(text))
	if c["objectstore.backend"] != "file" {
		return Files{}, false, nil
	}
	tokens, err := filepath.Abs(c["directories.tokendir"])
	if err != nil {
		return Files{}, false, err
	}
	if _, err := os.Stat(tokens); err != nil {
		return Files{}, false, fmt.Errorf("the directory of tokens that SoftHSM's configuration %s names: %w", path, err)
	}
	return Files{path, tokens, guarded}, true, nil
}

// isSoftHSM goes by the file's name, or by that of what it is a link to: what the
// module says of itself is known only when it has been initialized, which reads
// the files.
func isSoftHSM(module string) bool {
	names := []string{module}
	if target, err := filepath.EvalSymlinks(module); err == nil {
		names = append(names, target)
	}
	for _, name := range names {
		if strings.HasPrefix(filepath.Base(name), "libsofthsm2.") {
			return true
		}
	}
	return false
}

// configurationPath is where SoftHSM 2.6.1 looks: a variable that is set counts
// even if it is empty.
func configurationPath() string {
	if path, ok := os.LookupEnv("SOFTHSM2_CONF"); ok {
		return path
	}
	if home := os.Getenv("HOME"); home != "" {
		path := filepath.Join(home, ".config", "softhsm2", "softhsm2.conf")
		if f, err := os.Open(path); err == nil {
			_ = f.Close() // nothing was written
			return path
		}
	}
	return "/etc/softhsm/softhsm2.conf"
}

// Retarget gives the text of a configuration with its tokens in another directory,
// and all else as it is.
func Retarget(text, tokens string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if name, _, _ := strings.Cut(line, "="); strings.TrimSpace(name) != "directories.tokendir" {
			kept.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	return kept.String() + "directories.tokendir = " + tokens + "\n"
}

// parseConfiguration reads what SoftHSM's own reader does: name = value, up to a
// comment or a second equals sign; the last one of a name counts.
func parseConfiguration(text string) map[string]string {
	c := map[string]string{"directories.tokendir": "/var/lib/softhsm/tokens", "objectstore.backend": "file"}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		parts := strings.Split(line, "=")
		if len(parts) < 2 {
			continue
		}
		if name, value := strings.TrimSpace(parts[0]), strings.TrimSpace(parts[1]); name != "" && value != "" {
			c[name] = value
		}
	}
	return c
}
