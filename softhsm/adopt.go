package softhsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Adopt guards the tokens of a SoftHSM that its owner configured, and restores the files that a
// kill has destroyed since the last login. It keeps the copies in the directory guarded, which it
// creates if it is missing. It returns nil for a module that is not SoftHSM, and for a SoftHSM that
// keeps its tokens in a database, which needs no guard.
func Adopt(module, guarded string) (*Token, error) {
	files, ok, err := FilesOf(module, guarded)
	if err != nil || !ok {
		return nil, err
	}
	if err := os.Mkdir(guarded, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("creating the directory for copies of SoftHSM's files: %w", err)
	}
	return &Token{Files: files, Module: module}, files.restore()
}

// FilesOf returns the files that Adopt would guard, and false if there is nothing to guard. It
// changes nothing.
func FilesOf(module, guarded string) (Files, bool, error) {
	if !isSoftHSM(module) {
		return Files{}, false, nil
	}
	path := configurationPath()
	text, err := os.ReadFile(path)
	if err != nil {
		return Files{}, false, fmt.Errorf("reading SoftHSM's configuration (grant read access, "+
			"or set token.softhsm_conf or SOFTHSM2_CONF): %w", err)
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
		return Files{}, false, fmt.Errorf("opening the token directory of SoftHSM's configuration %q: %w", path, err)
	}
	return Files{path, tokens, guarded}, true, nil
}

// isSoftHSM reports whether module is SoftHSM, by the name of the file or of its symbolic link's
// target. The module itself can be asked only after it has been initialized, and initializing it
// reads the token files.
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

// configurationPath returns the path at which SoftHSM 2.6.1 looks for its configuration. SoftHSM
// uses the variable SOFTHSM2_CONF even if it is set to an empty string.
func configurationPath() string {
	if path, ok := os.LookupEnv("SOFTHSM2_CONF"); ok {
		return path
	}
	if home := os.Getenv("HOME"); home != "" {
		path := filepath.Join(home, ".config", "softhsm2", "softhsm2.conf")
		if f, err := os.Open(path); err == nil {
			_ = f.Close() // cannot lose data, because nothing was written
			return path
		}
	}
	return "/etc/softhsm/softhsm2.conf"
}

// Retarget returns the text of a SoftHSM configuration with another token directory. Everything
// else is unchanged.
func Retarget(text, tokens string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if name, _, _ := strings.Cut(line, "="); strings.TrimSpace(name) != "directories.tokendir" {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	return b.String() + "directories.tokendir = " + tokens + "\n"
}

// parseConfiguration parses a configuration as SoftHSM does. A line is name = value. The value ends
// at a comment or a second equals sign, and the last line with a name wins.
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
