package softhsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// Files are the paths of SoftHSM's tokens, each in a separate directory, and of the copies from
// which this package restores files that a kill destroys.
type Files struct {
	Configuration string // SoftHSM's configuration file
	Tokens        string // SoftHSM's directories.tokendir
	Guarded       string // the directory of this package's copies
}

// FilesIn returns the files of the token that Open creates in dir.
func FilesIn(dir string) Files {
	return Files{filepath.Join(dir, confFile), filepath.Join(dir, tokensDir), filepath.Join(dir, guardedDir)}
}

// Token returns the directory of the only token with the label or, if label is empty, the serial
// number. It returns an error if there is not exactly one.
func (f Files) Token(label, serial string) (dir string, err error) {
	found := 0
	err = f.eachToken(func(t tokenFiles) error {
		content, err := os.ReadFile(t.object)
		if errors.Is(err, fs.ErrPermission) {
			return nil // the token belongs to another user
		}
		if !isComplete(content) { // a login is rewriting it, or a kill destroyed it
			content, err = t.copy()
		}
		if label != "" && text(content, tokenLabel) == label || label == "" && text(content, tokenSerial) == serial {
			dir = filepath.Dir(t.object)
			found++
		}
		return err
	})
	if err == nil && found != 1 {
		err = fmt.Errorf("directory %q has %d tokens with label %q, serial number %q, want one", f.Tokens, found, label,
			serial)
	}
	return dir, err
}

// Flush writes the token's files to stable storage. SoftHSM never does so, and a power failure can
// destroy a key whose creation SoftHSM has reported.
func (f Files) Flush() error {
	d, err := os.Open(f.Tokens)
	if err != nil {
		return fmt.Errorf("flushing the token's files: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("flushing the token's files: %w", err)
	}
	return nil
}

// Guard makes a copy of each token.object and flushes it to stable storage. The caller must call
// Guard before every login, because a login rewrites that file in place.
func (f Files) Guard() error {
	return f.eachToken(func(t tokenFiles) error {
		content, err := os.ReadFile(t.object)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return nil // the token belongs to another user, and this process cannot use it either
		case errors.Is(err, fs.ErrNotExist), err == nil && !isComplete(content):
			return nil // a destroyed file must not replace a good copy
		}
		if err != nil {
			return err
		}
		return durable.Write(t.guarded, content, 0o600)
	})
}

// restore restores each destroyed token.object from its copy if a copy exists.
func (f Files) restore() error {
	return f.eachToken(func(t tokenFiles) error {
		defect, err := t.defect()
		if err != nil || defect == "" {
			return err
		}
		content, err := t.copy()
		if err != nil || content == nil {
			return err
		}
		return durable.Write(t.object, content, 0o600)
	})
}

// checkObjects returns an error if a token.object is destroyed.
func (f Files) checkObjects() error {
	return f.eachToken(func(t tokenFiles) error {
		defect, err := t.defect()
		if err == nil && defect != "" {
			err = fmt.Errorf("%q is %s and has no copy (restore the directory %q from a backup)",
				t.object, defect, filepath.Dir(t.object))
		}
		return err
	})
}

// tokenFiles are the paths of a token's token.object and of its copy.
type tokenFiles struct{ object, guarded string }

// defect describes the damage to the token.object in one word. It is empty if the file is intact.
func (t tokenFiles) defect() (string, error) {
	content, err := os.ReadFile(t.object)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "missing", nil
	case errors.Is(err, fs.ErrPermission):
		return "", nil // the token belongs to another user
	case err != nil:
		return "", err
	case len(content) == 0:
		return "empty", nil
	case !isComplete(content):
		return "truncated", nil
	}
	return "", nil
}

// copy returns the copy of the token.object, or nil if there is none.
func (t tokenFiles) copy() ([]byte, error) {
	content, err := os.ReadFile(t.guarded)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !isComplete(content) {
		return nil, nil
	}
	return content, err
}

// isUUID reports whether a directory has a name such as SoftHSM chooses for that of a token.
var isUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString

// isToken reports whether the directory with this name is, or was, a token's. A directory without a
// UUID as its name is one only if its token.object or a copy of that exists: otherwise it is the
// file system's, such as lost+found or .snapshot, or an administrator's.
func (t tokenFiles) isToken(name string) bool {
	if isUUID(name) {
		return true
	}
	for _, path := range []string{t.object, t.guarded} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return false
}

// eachToken calls visit for every token.
func (f Files) eachToken(visit func(t tokenFiles) error) error {
	entries, err := os.ReadDir(f.Tokens)
	if err != nil {
		return fmt.Errorf("listing SoftHSM's tokens: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		t := tokenFiles{filepath.Join(f.Tokens, e.Name(), objectFile),
			filepath.Join(f.Guarded, e.Name()+"."+objectFile)}
		if !t.isToken(e.Name()) {
			continue
		}
		if err := visit(t); err != nil {
			return fmt.Errorf("checking the files of SoftHSM token %q: %w", e.Name(), err)
		}
	}
	return nil
}
