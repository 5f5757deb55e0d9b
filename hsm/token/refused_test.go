package token_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// A refusedFile is the record of refused PINs.
type refusedFile struct {
	Version int
	Refused []struct {
		TokenSerial string
		N, R, P     int
		Salt, Hash  []byte
	}
}

func readRefused(t *testing.T, path string) (f refusedFile) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// newRefusing returns a configuration with a wrong PIN and a record of refused PINs. It counts
// the logins.
func newRefusing(t *testing.T) (cfg token.Config, logins *int) {
	t.Helper()
	soft, _ := newSoftHSM(t)
	cfg, logins = config(soft), new(int)
	cfg.BeforeLogin = func() error { *logins++; return nil }
	cfg.RefusedPINFile = filepath.Join(t.TempDir(), "pin-refused")
	cfg.PIN = "not the PIN"
	return cfg, logins
}

func expectErrPIN(t *testing.T, cfg token.Config) error {
	t.Helper()
	tok, err := token.Open(cfg)
	if err == nil {
		tok.Close()
	}
	if !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("Open: %v, want ErrPIN", err)
	}
	return err
}

// TestRefusedPINFile checks that the record of refused PINs does not disclose them, and that its
// hashes are slow.
func TestRefusedPINFile(t *testing.T) {
	cfg, _ := newRefusing(t)
	_ = expectErrPIN(t, cfg)
	info, err := os.Stat(cfg.RefusedPINFile)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("the record has mode %v, want 0600", info.Mode())
	}
	text, err := os.ReadFile(cfg.RefusedPINFile)
	if err != nil {
		t.Fatal(err)
	}
	pin := []byte(cfg.PIN)
	for _, form := range []string{string(pin), hex.EncodeToString(pin), base64.StdEncoding.EncodeToString(pin)} {
		if strings.Contains(string(text), form) {
			t.Errorf("the record contains the PIN: %s", text)
		}
	}
	f := readRefused(t, cfg.RefusedPINFile)
	if f.Version != 1 || len(f.Refused) != 1 || f.Refused[0].TokenSerial == "" {
		t.Fatalf("the record is %+v, want version 1 with one PIN of one token", f)
	}
	e := f.Refused[0]
	if e.N < 1<<16 || e.R < 8 || e.P < 1 || len(e.Salt) != 16 || len(e.Hash) != 32 {
		t.Errorf("the hash is %+v, want scrypt with N ≥ 65536, a salt of 16 bytes and 32 bytes", e)
	}
	err = expectErrPIN(t, cfg)
	for _, part := range []string{e.TokenSerial, "refused this PIN at 20", "no further attempt"} {
		if err != nil && !strings.Contains(err.Error(), part) {
			t.Errorf("Open with the refused PIN: %v, want an error with %q", err, part)
		}
	}
}

// TestManyRefused has a token refuse ten PINs. Each has its own salt, and the last eight are
// remembered.
func TestManyRefused(t *testing.T) {
	token.CheapHashes(t)
	cfg, logins := newRefusing(t)
	for n := range 10 {
		cfg.PIN = token.PIN(fmt.Sprintf("wrong PIN %d", n))
		_ = expectErrPIN(t, cfg)
	}
	f := readRefused(t, cfg.RefusedPINFile)
	if *logins != 10 || len(f.Refused) != 8 {
		t.Fatalf("%d logins, and %d PINs in the record, want 10 and 8", *logins, len(f.Refused))
	}
	for i, e := range f.Refused[1:] {
		if bytes.Equal(e.Salt, f.Refused[i].Salt) {
			t.Error("two PINs have the same salt")
		}
	}
	for n := 2; n < 10; n++ {
		cfg.PIN = token.PIN(fmt.Sprintf("wrong PIN %d", n))
		_ = expectErrPIN(t, cfg)
	}
	if *logins != 10 {
		t.Errorf("%d logins, want no further one", *logins)
	}
}

// TestDamagedRecord makes the record of refused PINs unreadable. The Token makes no attempt, except
// if it is to insist, and then replaces or removes the record.
func TestDamagedRecord(t *testing.T) {
	token.CheapHashes(t)
	cfg, logins := newRefusing(t)
	wrong := cfg.PIN
	soft, _ := newSoftHSM(t)
	cfg.PIN = token.PIN(soft.PIN())
	for name, content := range map[string]string{
		"empty":           "",
		"cut off":         `{"Version": 1, "Refused": [{"TokenSerial": "`,
		"another version": `{"Version": 2}`,
		"another hash":    `{"Version": 1, "Refused": [{"TokenSerial": "1", "N": 1099511627776, "R": 8, "P": 1}]}`,
	} {
		damage := func() {
			t.Helper()
			if err := os.WriteFile(cfg.RefusedPINFile, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		damage()
		*logins = 0
		err := expectErrPIN(t, cfg)
		if err != nil && !strings.Contains(err.Error(), cfg.RefusedPINFile+`" cannot be used`) || *logins != 0 {
			t.Errorf("%s: %v after %d logins, want an error with the file and no login", name, err, *logins)
		}
		insisting := cfg
		insisting.InsistOnPIN = true
		insisting.PIN = wrong
		_ = expectErrPIN(t, insisting)
		if f := readRefused(t, cfg.RefusedPINFile); len(f.Refused) != 1 {
			t.Errorf("%s: after a refusal the record is %+v, want one PIN", name, f)
		}
		damage()
		insisting.PIN = cfg.PIN
		tok, err := token.Open(insisting)
		if err != nil {
			t.Fatalf("%s: Open with InsistOnPIN: %v", name, err)
		}
		tok.Close()
		if _, err := os.Stat(cfg.RefusedPINFile); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the record after a good login: %v, want none", name, err)
		}
	}
}

// TestRefusedByAnotherToken has two tokens with the same label refuse the same PIN. Each decides
// for itself.
func TestRefusedByAnotherToken(t *testing.T) {
	token.CheapHashes(t)
	cfg, logins := newRefusing(t)
	_ = expectErrPIN(t, cfg)
	newSoftHSM(t) // from now on, the module finds this token
	for range 2 {
		_ = expectErrPIN(t, cfg)
	}
	if f := readRefused(t, cfg.RefusedPINFile); *logins != 2 || len(f.Refused) != 2 || f.Refused[0].TokenSerial == f.Refused[1].TokenSerial {
		t.Errorf("%d logins, and the record is %+v, want 2 and both tokens", *logins, f)
	}
}

// TestRefusalCannotBeRecorded opens a Token where no refusal can be recorded. The PIN is not tried: each
// restart would try it again.
func TestRefusalCannotBeRecorded(t *testing.T) {
	cfg, logins := newRefusing(t)
	cfg.RefusedPINFile = filepath.Join(t.TempDir(), "missing", "pin-refused")
	tok, err := token.Open(cfg)
	if err == nil {
		tok.Close()
	}
	if !errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, hsm.ErrPIN) || *logins != 0 {
		t.Errorf("Open: %v after %d logins, want ErrUnavailable without one", err, *logins)
	}
}

// TestLockedIsNoRefusal has a token answer that it is locked. That says nothing about the PIN, so it is not
// recorded, and the PIN works after the token has been unlocked.
func TestLockedIsNoRefusal(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.RefusedPINFile = filepath.Join(t.TempDir(), "pin-refused")
	f.Fail("C_Login", pkcs11.CKR_PIN_LOCKED, rig.Always)
	expectErrPIN(t, cfg)
	f.Clear("C_Login")
	tok := open(t, cfg)
	expectSigns(t, tok, generate(t, tok, hsm.EC_P256))
}
