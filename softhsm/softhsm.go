// Package softhsm creates a SoftHSM2 token in a separate directory, for laptops, tests and small
// installations, and guards its files.
//
// It guarantees:
//
//   - [Open] leaves either a complete token or none, even if it is interrupted.
//   - The PIN is random. It is stored in a file that only the owner can read, and never appears on
//     a command line.
//   - A kill during a login does not destroy the token. SoftHSM rewrites token.object in place at
//     every login, and a kill at that moment has destroyed whole tokens (9 of 60 kills on ext4).
//     This package restores the file from a copy that it flushed to stable storage before the
//     login. [Adopt] guards tokens created by others in the same way.
//
// [Files.Token] and [Retarget] help to move a token to another directory.
//
// SoftHSM reads the path of its configuration from the environment, so a process can use only one
// directory. See [Token.Setenv].
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

// modules are the paths at which distributions install SoftHSM's module.
var modules = []string{
	"/usr/lib/softhsm/libsofthsm2.so", // Debian, Ubuntu
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/lib/pkcs11/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
}

// Module returns the path of SoftHSM's PKCS#11 module: $SOFTHSM2_MODULE if it is set, otherwise the
// first file at which distributions install it. It returns an error if the file does not exist.
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
	return "", fmt.Errorf("SoftHSM is not installed at %s "+
		"(install it, on Debian with apt-get install softhsm2, or set SOFTHSM2_MODULE to its module)",
		strings.Join(candidates, ", "))
}

// A Token is a SoftHSM2 token in a directory, with guarded files.
type Token struct {
	Files
	Module string // path of the PKCS#11 module

	dir string // empty if the token was adopted
	pin string
}

// PIN returns the PIN of the token's user. It is empty for an adopted token, whose PIN is not
// known.
func (t *Token) PIN() string { return t.pin }

// Initialize creates a token with a label and PINs in the module's free slot. Callers pass
// hsm/token.Init. This package does not import it, in order to link no C code.
type Initialize func(module, label, officerPIN, userPIN string) error

// Open opens the token in dir and creates it first if dir does not exist. It sets SOFTHSM2_CONF for
// this process.
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
			return nil, fmt.Errorf("creating a SoftHSM token in %q: %w", dir, err)
		}
	}
	pin, err := os.ReadFile(filepath.Join(dir, pinFile))
	if err != nil {
		return nil, fmt.Errorf("reading the SoftHSM token's PIN: %w", err)
	}
	t := &Token{Files: FilesIn(dir), Module: module, dir: dir, pin: strings.TrimSpace(string(pin))}
	// The configuration is written at every start because it holds the directory's path, which may
	// change.
	if err := t.Setenv(); err != nil {
		return nil, err
	}
	if err := t.restore(); err != nil {
		return nil, err
	}
	return t, t.checkObjects()
}

const (
	pinFile    = "pin"
	confFile   = "softhsm2.conf"
	tokensDir  = "tokens"
	guardedDir = "guarded"
	objectFile = "token.object"
)

// create creates the token in a temporary directory beside dir and renames that to dir once the
// token is complete.
func create(dir, module string, initialize Initialize) (err error) {
	temp := dir + ".new"
	if err := os.RemoveAll(temp); err != nil { // a kill can have left it
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	for _, d := range []string{temp, filepath.Join(temp, tokensDir), filepath.Join(temp, guardedDir)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	t := &Token{Files: FilesIn(temp), Module: module, dir: temp, pin: newPIN()}
	if err := os.WriteFile(filepath.Join(temp, pinFile), []byte(t.pin+"\n"), 0o600); err != nil {
		return err
	}
	if err := t.Setenv(); err != nil {
		return err
	}
	// Nobody keeps the security officer's PIN. It would only serve to set a new user PIN, and
	// anyone with access to this directory can read the user PIN anyway.
	if err := initialize(module, Label, newPIN(), t.pin); err != nil {
		return err
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return os.Rename(temp, dir)
}

// newPIN returns a PIN of 26 letters and digits with at least 128 random bits.
func newPIN() string { return rand.Text() }

// Setenv writes the token's configuration and sets SOFTHSM2_CONF to its path. The module reads both
// when it is initialized.
func (t *Token) Setenv() error {
	conf := filepath.Join(t.dir, confFile)
	text := fmt.Sprintf("directories.tokendir = %s\n"+
		"objectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", filepath.Join(t.dir, tokensDir))
	if err := durable.Write(conf, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing SoftHSM's configuration: %w", err)
	}
	return os.Setenv("SOFTHSM2_CONF", conf)
}
