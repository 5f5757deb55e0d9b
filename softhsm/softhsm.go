// Package softhsm provides a SoftHSM2 token in a directory of its own, for
// laptops, tests and small installations, and guards its files.
//
// What it guarantees: [Open] leaves either a complete token or none, whenever
// it is interrupted. The PIN is random, is in a file that only its owner can
// read, and is never on a command line. A kill at the moment of a login, which
// makes SoftHSM rewrite token.object in place and has destroyed whole tokens
// (9 of 60 kills on ext4), does not: a flushed copy is put back. [Adopt] gives
// the same guard to tokens that somebody else made.
//
// [Files.Token] and [Retarget] are for moving a token elsewhere.
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

	"github.com/kmsgate/kmsgate/internal/durable"
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

// A Token is a SoftHSM2 token in a directory, with the guard of its files.
type Token struct {
	Files
	Module string // path of the PKCS#11 module

	dir string // of a token that Open made
	pin string
}

// PIN is the PIN of the token's user; of a token that was adopted it is not
// known.
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
	t := &Token{Files: FilesIn(dir), Module: module, dir: dir, pin: strings.TrimSpace(string(pin))}
	// Written at every start: it holds the directory's path, which may change.
	if err := t.Setenv(); err != nil {
		return nil, err
	}
	if err := t.restore(); err != nil {
		return nil, err
	}
	return t, t.lost()
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
	t := &Token{Files: FilesIn(making), Module: module, dir: making, pin: newPIN()}
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
	if err := durable.Write(conf, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing SoftHSM's configuration: %w", err)
	}
	return os.Setenv("SOFTHSM2_CONF", conf)
}
