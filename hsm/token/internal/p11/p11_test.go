package p11_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
	"github.com/kmsgate/kmsgate/softhsm"
)

// TestProtect makes the function panic and fault.
func TestProtect(t *testing.T) {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	stale := page[:1:1]
	if err := unix.Munmap(page); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() byte{
		"panic": func() byte { panic("nonsense") },
		"fault": func() byte { return stale[0] }, // without SetPanicOnFault, the process would end
	} {
		if err := p11.Protect(func() error { f(); return nil }); !p11.IsError(err) {
			t.Errorf("%s: %v, want an Error", name, err)
		}
	}
	if err := p11.Protect(func() error { return errOwn }); err != errOwn {
		t.Errorf("Protect returned %v, want the function's own error", err)
	}
}

var errOwn = errors.New("own")

func TestErrors(t *testing.T) {
	code := pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)
	err := p11.Wrap("C_Sign", code)
	if !p11.IsError(err) || !p11.Is(err, pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_DEVICE_ERROR) ||
		p11.Is(err, pkcs11.CKR_HOST_MEMORY) {
		t.Errorf("IsError or Is does not recognize %v", err)
	}
	if cause := p11.Cause(err); p11.IsError(cause) || !p11.Is(cause, code) {
		t.Errorf("Cause: %v, want the code without the Error", cause)
	}
	if p11.Wrap("C_Sign", nil) != nil || p11.IsError(errOwn) || p11.Is(errOwn, code) || p11.Cause(errOwn) != errOwn {
		t.Error("nil or another error is taken for an error of the module")
	}
}

// TestAge makes one of several calls hang, and lets time pass.
func TestAge(t *testing.T) {
	m := new(p11.Module)
	hanging, release, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- m.Call("C_Hang", func() error { close(hanging); <-release; return errOwn })
	}()
	<-hanging
	pass := func(excuses bool) { m.Age(time.Second, func(c p11.Call) bool { return excuses && c.Generates() }) }
	want := func(moment, calls string) {
		t.Helper()
		all := m.InFlight()
		slices.SortFunc(all, func(a, b p11.Call) int { return strings.Compare(a.Name, b.Name) })
		if got := fmt.Sprint(all); got != calls {
			t.Errorf("%s: got %s, want %s", moment, got, calls)
		}
	}
	want("at first", "[{1 C_Hang 0s}]")
	pass(true)
	want("after a second", "[{1 C_Hang 1s}]")
	if err := m.Call("C_GenerateKeyPair", func() error {
		pass(true)
		want("while a key is made", "[{2 C_GenerateKeyPair 1s} {1 C_Hang 1s}]")
		pass(false)
		want("after its limit", "[{2 C_GenerateKeyPair 2s} {1 C_Hang 2s}]")
		return nil
	}); err != nil {
		t.Error(err)
	}
	want("after that", "[{1 C_Hang 2s}]")
	close(release)
	if err := <-done; err != errOwn {
		t.Errorf("Call: %v, want the function's own error", err)
	}
	want("at the end", "[]")
}

func TestOneAtATime(t *testing.T) {
	m := new(p11.Module)
	m.SetOneAtATime(true)
	var running atomic.Int32
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			for range 100 {
				_ = m.Call("C_Sign", func() error {
					if n := running.Add(1); n != 1 {
						t.Errorf("%d calls at the same time, want 1", n)
					}
					running.Add(-1)
					return nil
				})
			}
		})
	}
	callers.Wait()
}

func TestLoad(t *testing.T) {
	if _, err := p11.Load("/nonexistent.so"); err == nil {
		t.Error("Load of a missing file: nil, want an error")
	}
}

const officerPIN, userPIN = "12345678", "87654321"

// newToken makes a SoftHSM token behind a module that injects faults, and logs in. For that
// it uses only this package.
func newToken(t *testing.T) (*p11.Module, *p11.Session, *rig.Faults) {
	t.Helper()
	var module string
	if _, err := softhsm.Open(filepath.Join(t.TempDir(), "softhsm"), func(path, label, _, _ string) error {
		module = path
		return initialize(path, label)
	}); err != nil {
		t.Fatal(err)
	}
	f := rig.NewFaults(t, module)
	m, err := p11.Load(f.Module)
	if err != nil {
		t.Fatal(err)
	}
	if repeated, err := m.Initialize(); err != nil || repeated {
		t.Fatalf("Initialize: %v, %v", repeated, err)
	}
	t.Cleanup(func() {
		if err := m.Finalize(nil); err != nil {
			t.Error(err)
		}
	})
	if repeated, err := m.Initialize(); err != nil || !repeated {
		t.Errorf("Initialize again: %v, %v, want true", repeated, err)
	}
	s, err := m.Open(findSlot(t, m, softhsm.Label))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Login(pkcs11.CKU_USER, userPIN); err != nil {
		t.Fatal(err)
	}
	return m, s, f
}

func initialize(path, label string) error {
	m, err := p11.Load(path)
	if err != nil {
		return err
	}
	if _, err := m.Initialize(); err != nil {
		return err
	}
	defer m.Finalize(nil)
	slots, err := m.Slots()
	if err != nil {
		return err
	}
	if err := m.InitToken(slots[0], officerPIN, label); err != nil {
		return err
	}
	if slots, err = m.Slots(); err != nil { // the slot's number has changed
		return err
	}
	s, err := m.Open(slots[0])
	if err != nil {
		return err
	}
	return errors.Join(s.Login(pkcs11.CKU_SO, officerPIN), s.InitPIN(userPIN))
}

func findSlot(t *testing.T, m *p11.Module, label string) uint {
	t.Helper()
	slots, err := m.Slots()
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := m.TokenInfo(slot); err == nil && info.Label == label {
			return slot
		}
	}
	t.Fatalf("none of %d tokens is labelled %q", len(slots), label)
	return 0
}

// trueAttributes returns a template in which the given attributes are true.
func trueAttributes(types ...uint) (template []*pkcs11.Attribute) {
	for _, typ := range types {
		template = append(template, pkcs11.NewAttribute(typ, true))
	}
	return template
}

// newPair makes an RSA key pair in the token.
func newPair(t *testing.T, s *p11.Session) (public, private pkcs11.ObjectHandle) {
	t.Helper()
	public, private, err := s.GenerateKeyPair(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN,
		append(trueAttributes(pkcs11.CKA_TOKEN, pkcs11.CKA_VERIFY),
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048),
			pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})),
		trueAttributes(pkcs11.CKA_TOKEN, pkcs11.CKA_SIGN, pkcs11.CKA_SENSITIVE))
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

// TestSession calls each function at least once.
func TestSession(t *testing.T) {
	m, s, _ := newToken(t)
	if info, err := m.Info(); err != nil || info.ManufacturerID != "SoftHSM" {
		t.Errorf("Info: %+v, %v", info, err)
	}
	list, err := m.Mechanisms(findSlot(t, m, softhsm.Label))
	if err != nil || !slices.ContainsFunc(list, func(m p11.Mechanism) bool {
		return m.ID == pkcs11.CKM_RSA_PKCS && m.MaxKeySize >= 4096
	}) {
		t.Errorf("Mechanisms: %d, %v, want CKM_RSA_PKCS with 4096 bits among them", len(list), err)
	}
	public, private := newPair(t, s)
	if class, err := s.Uint(private, pkcs11.CKA_CLASS); err != nil || class != pkcs11.CKO_PRIVATE_KEY {
		t.Errorf("CKA_CLASS: %#x, %v, want CKO_PRIVATE_KEY", class, err)
	}
	if sensitive, err := s.Bool(private, pkcs11.CKA_SENSITIVE); err != nil || !sensitive {
		t.Errorf("CKA_SENSITIVE: %v, %v, want true", sensitive, err)
	}
	_, err = s.Attribute(private, pkcs11.CKA_PRIVATE_EXPONENT)
	if !p11.IsError(err) || !p11.Is(err, pkcs11.CKR_ATTRIBUTE_SENSITIVE) {
		t.Errorf("reading the private exponent: %v, want an Error with CKR_ATTRIBUTE_SENSITIVE", err)
	}
	found, err := s.Find()
	if err != nil || !slices.Contains(found, public) || !slices.Contains(found, private) || len(found) != 2 {
		t.Errorf("Find: %v, %v, want %d and %d", found, err, public, private)
	}
	copied, err := s.Copy(private, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false))
	if err != nil {
		t.Fatal(err)
	}
	found, err = s.Find(pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))
	if err != nil || !slices.Equal(found, []pkcs11.ObjectHandle{private}) {
		t.Errorf("Find of private keys: %v, %v, want %d and no session object", found, err, private)
	}
	sig, err := s.Sign(private, pkcs11.CKM_RSA_PKCS, nil, []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	copySig, err := s.Sign(copied, pkcs11.CKM_RSA_PKCS, nil, []byte("message"))
	if err != nil || !bytes.Equal(copySig, sig) {
		t.Errorf("the copy's signature: %x, %v, want %x", copySig, err, sig)
	}
	if err := s.Destroy(copied); err != nil {
		t.Error(err)
	}
	if _, err := s.Sign(copied, pkcs11.CKM_RSA_PKCS, nil, []byte("message")); !p11.Is(err, p11.HandleErrors...) {
		t.Errorf("Sign with a destroyed key: %v, want one of HandleErrors", err)
	}
	aes, err := s.GenerateKey(pkcs11.CKM_AES_KEY_GEN,
		append(trueAttributes(pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32)))
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, 12)
	ciphertext, err := s.EncryptGCM(aes, nonce, []byte("secret"), []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := s.DecryptGCM(aes, nonce, ciphertext, []byte("aad")); err != nil || string(secret) != "secret" {
		t.Errorf("DecryptGCM: %q, %v", secret, err)
	}
	if secret, err := s.DecryptGCM(aes, nonce, ciphertext, []byte("other")); err == nil {
		t.Errorf("DecryptGCM with other additional data: %q, want an error", secret)
	}
	if random, err := s.Random(32); err != nil || len(random) != 32 {
		t.Errorf("Random: %x, %v", random, err)
	}
}

// TestWrongAnswers makes the module return invalid answers.
func TestWrongAnswers(t *testing.T) {
	m, s, f := newToken(t)
	_, private := newPair(t, s)
	slot := findSlot(t, m, softhsm.Label)
	f.Repeat("C_OpenSession", 1)
	if _, err := m.Open(slot); !p11.IsError(err) {
		t.Errorf("Open with the handle of another session: %v, want an Error", err)
	}
	for range 3 {
		if err := s.Renew(); err != nil { // the new session may get the old handle again
			t.Fatal(err)
		}
	}
	f.SetLength("C_Sign", 0xffffffff, 1)
	if sig, err := s.Sign(private, pkcs11.CKM_RSA_PKCS, nil, []byte("message")); !p11.IsError(err) {
		t.Errorf("a signature of 4 GiB: %d bytes, %v, want an Error", len(sig), err)
	}
	if err := s.Renew(); err != nil {
		t.Fatal(err)
	}
	f.Repeat("C_FindObjects", 1)
	found, err := s.Find(pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))
	if err != nil || len(found) != 1 {
		t.Errorf("a search that lists an object twice: %v, %v, want it once", found, err)
	}
	f.Fail("C_FindObjects", pkcs11.CKR_DEVICE_ERROR, 1)
	if found, err := s.Find(); !p11.Is(err, pkcs11.CKR_DEVICE_ERROR) || found != nil {
		t.Errorf("a failing search: %v, %v, want CKR_DEVICE_ERROR", found, err)
	}
	if _, err := s.Find(); err != nil {
		t.Errorf("a search after a failed search: %v", err)
	}
	f.Hang("C_Sign", 1)
	signed := make(chan error)
	go func() {
		_, err := s.Sign(private, pkcs11.CKM_RSA_PKCS, nil, []byte("message"))
		signed <- err
	}()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if calls := m.InFlight(); len(calls) == 1 && calls[0].Name == "C_Sign" && f.InFlight() == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Error("InFlight does not return the hanging call")
			break
		}
	}
	f.Release()
	if err := <-signed; err != nil {
		t.Error(err)
	}
	s.Close()
	s.Close()
	if _, err := s.Random(1); !p11.IsError(err) {
		t.Errorf("Random in a closed session: %v, want an Error", err)
	}
}
