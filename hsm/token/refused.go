package token

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/scrypt"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// refusals are the PINs that a token has refused since the last good login. If there is a file,
// it has the last of them, so that later processes know them. They are often old or mistyped
// PINs, so the file has only salted hashes that are slow to compute. It knows a PIN by nothing
// else: a file with the PIN can change although its date does not, and the other way round.
type refusals struct {
	path   string // of the file; empty if there is none
	exists bool   // the file exists
	damage error  // why the file's content is unknown
	known  []refusal
}

// A refusal is a PIN that a token refused. Its exported fields are in the file.
type refusal struct {
	TokenSerial string
	Time        time.Time
	Salt        []byte
	N, R, P     int    // the parameters of scrypt
	Hash        []byte // scrypt of the PIN

	pin PIN // empty until this process knows it
}

// The format of the file, and the hashes in it. One hash takes 64 MiB of memory and at least
// 100 ms.
const (
	refusalsVersion = 1
	maxRefused      = 8 // in the file

	pinSaltSize = 16
	hashSize    = 32
	scryptR     = 8
	scryptP     = 1
)

var scryptN = 1 << 16

type refusalsFile struct {
	Version int
	Refused []refusal
}

// loadRefusals reads the file at path, which need not exist. If the file cannot be read or
// parsed, find returns an error.
func loadRefusals(path string) refusals {
	r := refusals{path: path}
	if path == "" {
		return r
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r
	}
	r.exists = true
	if err == nil {
		r.known, err = parseRefusals(text)
	}
	if err != nil {
		r.damage = fmt.Errorf("the record of refused PINs %q cannot be used: %w (if the PIN is right, remove the file)", path, err)
	}
	return r
}

func parseRefusals(text []byte) ([]refusal, error) {
	var f refusalsFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, err
	}
	if f.Version != refusalsVersion {
		return nil, fmt.Errorf("its version is %d instead of %d", f.Version, refusalsVersion)
	}
	for _, e := range f.Refused {
		if len(e.Salt) != pinSaltSize || len(e.Hash) != hashSize || e.N != scryptN || e.R != scryptR || e.P != scryptP {
			return nil, errors.New("it has a hash of an unknown kind")
		}
	}
	return f.Refused, nil
}

// find returns the refusal of a PIN by the token with a serial number, or nil if there was none.
func (r *refusals) find(serial string, pin PIN) (*refusal, error) {
	if r.damage != nil {
		return nil, r.damage
	}
	for i := range r.known {
		e := &r.known[i]
		if e.TokenSerial != serial {
			continue
		}
		if equal, err := e.has(pin); equal || err != nil {
			return e, err
		}
	}
	return nil, nil
}

// has reports whether pin is the refused PIN.
func (e *refusal) has(pin PIN) (bool, error) {
	if e.pin != "" {
		return subtle.ConstantTimeCompare([]byte(e.pin), []byte(pin)) == 1, nil
	}
	hash, err := hashPIN(pin, e.Salt)
	if err != nil || subtle.ConstantTimeCompare(hash, e.Hash) != 1 {
		return false, err
	}
	e.pin = pin
	return true, nil
}

func hashPIN(pin PIN, salt []byte) ([]byte, error) {
	return scrypt.Key([]byte(pin), salt, scryptN, scryptR, scryptP, hashSize)
}

// add records that the token with a serial number refused a PIN just now. If it returns an error,
// only this process knows that. It replaces a damaged file.
func (r *refusals) add(serial string, pin PIN) error {
	if known, err := r.find(serial, pin); err == nil && known != nil {
		r.known = slices.DeleteFunc(r.known, func(e refusal) bool { return e.TokenSerial == serial && e.pin == pin })
	}
	r.remember(serial, pin)
	return r.write()
}

// remember records in memory that the token with a serial number refused a PIN just now.
func (r *refusals) remember(serial string, pin PIN) {
	r.damage = nil
	r.known = append(r.known, refusal{TokenSerial: serial, Time: time.Now().UTC().Truncate(time.Second), pin: pin})
}

// prepare makes sure that a refusal can be recorded: it writes the file.
func (r *refusals) prepare() error { return r.write() }

func (r *refusals) write() error {
	if r.path == "" {
		return nil
	}
	last := r.known[max(0, len(r.known)-maxRefused):]
	for i := range last {
		if err := last[i].fill(); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(refusalsFile{refusalsVersion, last}, "", "  ")
	if err != nil {
		return err
	}
	r.exists = true // even after some errors
	return durable.Write(r.path, append(text, '\n'), 0o600)
}

// fill computes the hash, unless the refusal has one.
func (e *refusal) fill() (err error) {
	if e.Hash != nil {
		return nil
	}
	e.Salt = make([]byte, pinSaltSize)
	rand.Read(e.Salt)
	e.N, e.R, e.P = scryptN, scryptR, scryptP
	e.Hash, err = hashPIN(e.pin, e.Salt)
	return err
}

// clear forgets all refusals, and removes the file.
func (r *refusals) clear() error {
	r.known, r.damage = nil, nil
	if !r.exists {
		return nil
	}
	if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.exists = false
	return durable.SyncDir(filepath.Dir(r.path))
}
