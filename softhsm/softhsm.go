// Package softhsm provides a SoftHSM2 token in a directory of its own, for
// laptops, tests and small installations, and guards its files.
//
// What it guarantees: [Open] leaves either a complete token or none, whenever
// it is interrupted. The PIN is random, is in a file that only its owner can
// read, and is never on a command line. A kill at the moment of a login, which
// makes SoftHSM rewrite token.object in place and has destroyed whole tokens
// (9 of 60 kills on ext4), does not: a flushed copy is put back.
//
// SoftHSM reads its configuration's path from the environment, so a process can
// use one directory only: see [Token.Setenv].
package softhsm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Label is the label of the token in every directory.
const Label = "kmsgate"

// modules is where distributions put SoftHSM's module.
var modules = []string{
	"/usr/lib/softhsm/libsofthsm2.so", // Debian, Ubuntu
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/lib/pkcs11/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
}

// Module finds SoftHSM's PKCS#11 module: the path in $SOFTHSM2_MODULE if that is
// set, else where distributions put it.
func Module() (string, error) {
	candidates := modules
	if path := os.Getenv("SOFTHSM2_MODULE"); path != "" {
		candidates = []string{path}
	}
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("SoftHSM is not installed (looked for %s): install it (on Debian: apt-get install softhsm2) or name its module in SOFTHSM2_MODULE",
		strings.Join(candidates, ", "))
}

// A Token is a SoftHSM2 token in a directory.
type Token struct {
	Module string // path of the PKCS#11 module

	dir string
	pin string
}

// PIN is the PIN of the token's user.
func (t *Token) PIN() string { return t.pin }

// Initialize makes a token labelled label in the module's free slot, with these
// PINs. It is hsm/token.Init; this package links no C.
type Initialize func(module, label, officerPIN, userPIN string) error

// Open gives the token in dir, making it first if dir does not exist. It sets
// SOFTHSM2_CONF for this process.
func Open(dir string, initialize Initialize) (*Token, error) {
	module, err := Module()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := create(dir, module, initialize); err != nil {
			return nil, fmt.Errorf("making a SoftHSM token: %w", err)
		}
	}
	pin, err := os.ReadFile(filepath.Join(dir, pinFile))
	if err != nil {
		return nil, fmt.Errorf("reading the token's PIN: %w", err)
	}
	t := &Token{Module: module, dir: dir, pin: strings.TrimSpace(string(pin))}
	// Written at every start: it holds the directory's path, which may change.
	if err := t.Setenv(); err != nil {
		return nil, err
	}
	return t, t.restore()
}

const (
	pinFile    = "pin"
	confFile   = "softhsm2.conf"
	tokensDir  = "tokens"
	guardedDir = "guarded"
	objectFile = "token.object"
)

// create makes the token beside its place and moves it there when it is
// complete.
func create(dir, module string, initialize Initialize) (err error) {
	making := dir + ".new"
	if err := os.RemoveAll(making); err != nil { // left by a kill
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(making))
		}
	}()
	for _, d := range []string{making, filepath.Join(making, tokensDir), filepath.Join(making, guardedDir)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	t := &Token{Module: module, dir: making, pin: newPIN()}
	if err := os.WriteFile(filepath.Join(making, pinFile), []byte(t.pin+"\n"), 0o600); err != nil {
		return err
	}
	if err := t.Setenv(); err != nil {
		return err
	}
	// The security officer's PIN is thrown away: its only use would be to set
	// a new user PIN, and who can do that has the old one's file anyway.
	if err := initialize(module, Label, newPIN(), t.pin); err != nil {
		return err
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return os.Rename(making, dir)
}

// newPIN makes a PIN of 26 letters and digits with 128 random bits.
func newPIN() string { return rand.Text() }

// Setenv writes the token's configuration and points SOFTHSM2_CONF at it, which
// the module reads when it is initialized.
func (t *Token) Setenv() error {
	conf := filepath.Join(t.dir, confFile)
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
		filepath.Join(t.dir, tokensDir))
	if err := os.WriteFile(conf+".new", []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing SoftHSM's configuration: %w", err)
	}
	if err := os.Rename(conf+".new", conf); err != nil {
		return fmt.Errorf("writing SoftHSM's configuration: %w", err)
	}
	return os.Setenv("SOFTHSM2_CONF", conf)
}

// Flush brings the token's files to stable storage. SoftHSM never does: a key
// that it reported as made can be gone after a power failure.
func (t *Token) Flush() error {
	d, err := os.Open(filepath.Join(t.dir, tokensDir))
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
func (t *Token) Guard() error {
	return t.eachToken(func(object, guarded string) error {
		content, err := os.ReadFile(object)
		if err != nil || len(content) == 0 {
			return err // an empty one is never copied over a good one
		}
		return writeDurably(guarded, content)
	})
}

// restore puts the copy of a token.object back where the file is empty.
func (t *Token) restore() error {
	return t.eachToken(func(object, guarded string) error {
		info, err := os.Stat(object)
		if err == nil && info.Size() > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		content, err := os.ReadFile(guarded)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the token's file %s is empty or missing and there is no copy of it: restore the directory %s from a backup", object, t.dir)
		}
		if err != nil {
			return err
		}
		return writeDurably(object, content)
	})
}

// eachToken calls f for every token in the directory, with the paths of its
// token.object and of the copy. SoftHSM names token directories by UUIDs.
func (t *Token) eachToken(f func(object, guarded string) error) error {
	entries, err := os.ReadDir(filepath.Join(t.dir, tokensDir))
	if err != nil {
		return fmt.Errorf("listing the tokens: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		object := filepath.Join(t.dir, tokensDir, e.Name(), objectFile)
		guarded := filepath.Join(t.dir, guardedDir, e.Name()+"."+objectFile)
		if err := f(object, guarded); err != nil {
			return fmt.Errorf("guarding token %s: %w", e.Name(), err)
		}
	}
	return nil
}

// writeDurably replaces a file by rename, flushed before and after.
func writeDurably(path string, content []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
