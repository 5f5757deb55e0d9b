package softhsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// Files are where SoftHSM keeps its tokens, each in a directory of its own, and
// where the copies are kept that bring back what a kill destroys.
type Files struct {
	Configuration string // SoftHSM's own
	Tokens        string // directories.tokendir
	Guarded       string // ours
}

// FilesIn gives the files of the token that Open makes in dir.
func FilesIn(dir string) Files {
	return Files{filepath.Join(dir, confFile), filepath.Join(dir, tokensDir), filepath.Join(dir, guardedDir)}
}

// Token gives the directory of the one token with a label or, if that is empty, a
// serial number.
func (f Files) Token(label, serial string) (dir string, err error) {
	found := 0
	err = f.eachToken(func(t tokenFiles) error {
		content, err := os.ReadFile(t.object)
		if errors.Is(err, fs.ErrPermission) {
			return nil // another's
		}
		if !isWhole(content) { // during a login, or since a kill
			content, err = t.copy()
		}
		if label != "" && text(content, tokenLabel) == label || label == "" && text(content, tokenSerial) == serial {
			dir = filepath.Dir(t.object)
			found++
		}
		return err
	})
	if err == nil && found != 1 {
		err = fmt.Errorf("in %s there are %d tokens with label %q, serial number %q", f.Tokens, found, label, serial)
	}
	return dir, err
}

// Flush brings the token's files to stable storage. SoftHSM never does: a key
// that it reported as made can be gone after a power failure.
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

// Guard keeps a flushed copy of each token.object. It is to be called before
// every login, which rewrites that file in place.
func (f Files) Guard() error {
	return f.eachToken(func(t tokenFiles) error {
		content, err := os.ReadFile(t.object)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return nil // another's: SoftHSM cannot use it for us either
		case errors.Is(err, fs.ErrNotExist), err == nil && !isWhole(content):
			return nil // a destroyed one is never copied over a good one
		}
		if err != nil {
			return err
		}
		return durable.Write(t.guarded, content, 0o600)
	})
}

// restore puts the copy of each token.object back that a kill destroyed, where
// there is one.
func (f Files) restore() error {
	return f.eachToken(func(t tokenFiles) error {
		gone, err := t.destroyed()
		if err != nil || gone == "" {
			return err
		}
		content, err := t.copy()
		if err != nil || content == nil {
			return err
		}
		return durable.Write(t.object, content, 0o600)
	})
}

// lost is an error if a token cannot be brought back.
func (f Files) lost() error {
	return f.eachToken(func(t tokenFiles) error {
		gone, err := t.destroyed()
		if err == nil && gone != "" {
			err = fmt.Errorf("%s is %s and there is no copy of it: restore the directory %s from a backup", t.object, gone, filepath.Dir(t.object))
		}
		return err
	})
}

// tokenFiles are the file that holds what a token is, and its copy.
type tokenFiles struct{ object, guarded string }

// destroyed says what is wrong with the token.object, in a word; it is empty if
// nothing is.
func (t tokenFiles) destroyed() (string, error) {
	content, err := os.ReadFile(t.object)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "missing", nil
	case errors.Is(err, fs.ErrPermission):
		return "", nil // another's
	case err != nil:
		return "", err
	case len(content) == 0:
		return "empty", nil
	case !isWhole(content):
		return "cut short", nil
	}
	return "", nil
}

// copy gives the copy of the token.object, nil if there is none.
func (t tokenFiles) copy() ([]byte, error) {
	content, err := os.ReadFile(t.guarded)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !isWhole(content) {
		return nil, nil
	}
	return content, err
}

// eachToken calls f for every token. SoftHSM names their directories by UUIDs.
func (f Files) eachToken(do func(t tokenFiles) error) error {
	entries, err := os.ReadDir(f.Tokens)
	if err != nil {
		return fmt.Errorf("listing the tokens: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		t := tokenFiles{filepath.Join(f.Tokens, e.Name(), objectFile), filepath.Join(f.Guarded, e.Name()+"."+objectFile)}
		if err := do(t); err != nil {
			return fmt.Errorf("guarding token %s: %w", e.Name(), err)
		}
	}
	return nil
}
