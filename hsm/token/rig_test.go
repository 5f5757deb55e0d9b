package token_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/softhsm"
)

// A raw is a module used through the binding, with a login and a key pair.
type raw struct {
	*pkcs11.Ctx
	slot    uint
	session pkcs11.SessionHandle
	key     pkcs11.ObjectHandle
}

// openRaw logs in to the token and makes an RSA key pair.
func openRaw(t *testing.T, module, label, pin string) *raw {
	t.Helper()
	r := &raw{Ctx: pkcs11.New(module)}
	if r.Ctx == nil {
		t.Fatalf("cannot load %q", module)
	}
	if err := r.Initialize(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Finalize() })
	slots, err := r.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	ours := slices.IndexFunc(slots, func(slot uint) bool {
		info, err := r.GetTokenInfo(slot)
		return err == nil && info.Label == label
	})
	if ours < 0 {
		t.Fatalf("none of the %d tokens is labelled %q", len(slots), label)
	}
	r.slot = slots[ours]
	r.begin(t, pin)
	return r
}

// begin opens a session, logs in and makes the key pair.
func (r *raw) begin(t *testing.T, pin string) {
	t.Helper()
	var err error
	if r.session, err = r.OpenSession(r.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		t.Fatal(err)
	}
	if err := r.Login(r.session, pkcs11.CKU_USER, pin); err != nil {
		t.Fatal(err)
	}
	r.key, err = r.generate(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN,
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}))
	if err != nil {
		t.Fatal(err)
	}
}

func (r *raw) generate(mechanism uint, public ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	_, private, err := r.GenerateKeyPair(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)},
		append(public, pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true)),
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_SIGN, true)})
	return private, err
}

// sign always signs the same message, with a padding without salt. So a good signature is
// always the same too.
func (r *raw) sign() ([]byte, error) {
	pkcs1 := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS, nil)}
	if err := r.SignInit(r.session, pkcs1, r.key); err != nil {
		return nil, err
	}
	return r.Sign(r.session, []byte("message"))
}

// resumeSign completes a signature whose C_Sign failed.
func (r *raw) resumeSign() error {
	_, err := r.Sign(r.session, []byte("message"))
	return err
}

// hasMechanism reports whether the token lists a mechanism.
func (r *raw) hasMechanism(t *testing.T, mechanism uint) bool {
	t.Helper()
	list, err := r.GetMechanismList(r.slot)
	if err != nil {
		t.Fatal(err)
	}
	listed := slices.ContainsFunc(list, func(m *pkcs11.Mechanism) bool { return m.Mechanism == mechanism })
	_, err = r.GetMechanismInfo(r.slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)})
	if listed != (err == nil) {
		t.Errorf("mechanism %#x: listed is %v, but C_GetMechanismInfo returns %v", mechanism, listed, err)
	}
	return listed
}

// TestRigs checks the limits for which the tests use these tokens.
func TestRigs(t *testing.T) {
	p256 := pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07})
	t.Run("p11-kit", func(t *testing.T) {
		remote, cfg := newRemote(t)
		r := openRaw(t, remote.Module, cfg.Label, string(cfg.PIN))
		if _, err := r.sign(); err != nil {
			t.Error(err)
		}
		if _, err := r.generate(pkcs11.CKM_EC_KEY_PAIR_GEN, p256); err != nil {
			t.Error(err)
		}
		if r.hasMechanism(t, pkcs11.CKM_AES_GCM) || !r.hasMechanism(t, pkcs11.CKM_SHA256_HMAC) {
			t.Error("the token has AES-GCM or lacks HMAC, want HMAC only")
		}
		remote.Kill()
		if sig, err := r.sign(); err == nil {
			t.Errorf("a killed token signed %x", sig)
		}
		remote.Start()
		if sig, err := r.sign(); err == nil {
			t.Errorf("a broken connection signed %x, want an error", sig)
		}
	})
	t.Run("opencryptoki", func(t *testing.T) {
		soft := rig.OpenCryptoki(t)
		r := openRaw(t, soft.Module, soft.Label, soft.PIN)
		if _, err := r.sign(); err != nil {
			t.Error(err)
		}
		_, err := r.generate(pkcs11.CKM_EC_KEY_PAIR_GEN, p256)
		if !errors.Is(err, pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID)) {
			t.Errorf("generating a key pair on P-256: %v, want CKR_MECHANISM_INVALID", err)
		}
		if r.hasMechanism(t, pkcs11.CKM_AES_GCM) || !r.hasMechanism(t, pkcs11.CKM_SHA256_HMAC) {
			t.Error("the token has AES-GCM or lacks HMAC, want HMAC only")
		}
	})
}

// TestFaults tests every fault that can be injected.
func TestFaults(t *testing.T) {
	soft, _ := newSoftHSM(t)
	f := rig.NewFaults(t, soft.Module)
	r := openRaw(t, f.Module, softhsm.Label, soft.PIN())
	good, err := r.sign()
	if err != nil {
		t.Fatal(err)
	}
	want := func(description string, code uint) {
		t.Helper()
		sig, err := r.sign()
		if code == pkcs11.CKR_OK && (err != nil || !slices.Equal(sig, good)) ||
			code != pkcs11.CKR_OK && !errors.Is(err, pkcs11.Error(code)) {
			t.Errorf("%s: %x, %v, want code %#x", description, sig, err, code)
		}
	}
	calls := f.Calls("C_SignInit")
	f.Fail("C_SignInit", pkcs11.CKR_DEVICE_ERROR, 2)
	want("first failure", pkcs11.CKR_DEVICE_ERROR)
	want("second failure", pkcs11.CKR_DEVICE_ERROR)
	want("no third failure", pkcs11.CKR_OK)
	if made := f.Calls("C_SignInit") - calls; made != 3 {
		t.Errorf("%d calls of C_SignInit, want 3", made)
	}
	f.Flip("C_Sign", 1)
	if sig, err := r.sign(); err != nil || len(sig) != len(good) || slices.Equal(sig, good) {
		t.Errorf("a faulty signature: %x, %v", sig, err)
	}
	f.Truncate("C_Sign", 1)
	if sig, err := r.sign(); err != nil || !slices.Equal(sig, good[:len(good)-1]) {
		t.Errorf("a short signature: %x, %v", sig, err)
	}
	want("a signature after the faults", pkcs11.CKR_OK)

	f.Hang("C_Sign", rig.Always)
	signed := make(chan error)
	go func() { _, err := r.sign(); signed <- err }()
	waitFor(t, "a hanging call", func() bool { return f.InFlight() == 1 })
	f.Release()
	if err := <-signed; err != nil || f.InFlight() != 0 {
		t.Errorf("a released call: %v, and %d calls in flight, want nil and 0", err, f.InFlight())
	}
	testSerialize(t, f, r)
	f.Delay("C_SignInit", 50*time.Millisecond)
	before := time.Now()
	want("a slow signature", pkcs11.CKR_OK)
	if took := time.Since(before); took < 50*time.Millisecond {
		t.Errorf("a slow signature took %v, want at least 50 ms", took)
	}
	f.Delay("C_SignInit", 0)

	f.Logout()
	want("a signature without a login", pkcs11.CKR_OBJECT_HANDLE_INVALID)
	f.CloseSessions()
	want("a signature without a session", pkcs11.CKR_SESSION_HANDLE_INVALID)
	if f.Sessions() != 0 {
		t.Errorf("%d open sessions after CloseSessions, want 0", f.Sessions())
	}
	f.Reinitialize()
	want("a signature after reinitializing", pkcs11.CKR_SESSION_HANDLE_INVALID)
	r.begin(t, soft.PIN())
	if f.Sessions() != 1 || f.Calls("C_Login") != 2 || f.Collisions() != 0 {
		t.Errorf("%d sessions, %d logins, %d collisions, want 1, 2, 0", f.Sessions(), f.Calls("C_Login"), f.Collisions())
	}

	testWrongAnswers(t, f, r)

	f.SetTokenFlags(pkcs11.CKF_USER_PIN_LOCKED)
	f.ClearTokenFlags(pkcs11.CKF_RNG)
	const flags = pkcs11.CKF_USER_PIN_LOCKED | pkcs11.CKF_RNG
	if info, err := r.GetTokenInfo(r.slot); err != nil || info.Flags&flags != pkcs11.CKF_USER_PIN_LOCKED {
		t.Errorf("flags %#x, %v, want USER_PIN_LOCKED without RNG", info.Flags, err)
	}
	f.HideMechanisms(pkcs11.CKM_RSA_PKCS)
	if r.hasMechanism(t, pkcs11.CKM_RSA_PKCS) || !r.hasMechanism(t, pkcs11.CKM_RSA_PKCS_PSS) {
		t.Error("HideMechanisms did not hide exactly one mechanism")
	}
	want("a hidden mechanism", pkcs11.CKR_MECHANISM_INVALID)
	f.LimitSessions(1)
	f.FailSlot(r.slot+1, pkcs11.CKR_DEVICE_ERROR)
	if info, err := r.GetTokenInfo(r.slot); err != nil || info.MaxRwSessionCount != 1 {
		t.Errorf("a limit of %d sessions, %v, want 1", info.MaxRwSessionCount, err)
	}
	f.FailSlot(r.slot, pkcs11.CKR_DEVICE_ERROR)
	if _, err := r.GetTokenInfo(r.slot); !errors.Is(err, pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)) {
		t.Errorf("C_GetTokenInfo after FailSlot: %v, want CKR_DEVICE_ERROR", err)
	}
}

// testSerialize expects a call to wait for another one that hangs.
func testSerialize(t *testing.T, f *rig.Faults, r *raw) {
	f.Serialize()
	f.Hang("C_Sign", 1)
	returned := make(chan error, 2)
	go func() { _, err := r.sign(); returned <- err }()
	waitFor(t, "a hanging call", func() bool { return f.Pending("C_Sign") == 0 })
	calls := f.Calls("C_GetInfo")
	go func() { _, err := r.GetInfo(); returned <- err }()
	waitFor(t, "a call that waits", func() bool { return f.InFlight() == 2 })
	if f.Calls("C_GetInfo") != calls {
		t.Error("a call began during another one")
	}
	f.Release()
	for range 2 {
		if err := <-returned; err != nil {
			t.Errorf("a serialized call: %v", err)
		}
	}
}

// testWrongAnswers tests the faults of calls that return CKR_OK with a wrong result.
func testWrongAnswers(t *testing.T, f *rig.Faults, r *raw) {
	first, err := r.sign()
	if err != nil {
		t.Fatal(err)
	}
	f.Fill("C_Sign", 7, 3, 1)
	if sig, err := r.sign(); err != nil || len(sig) != len(first) || !slices.Equal(sig[:3], []byte{7, 10, 13}) {
		t.Errorf("a signature after Fill: %x, %v", sig, err)
	}
	f.SetLength("C_Sign", 7, 1)
	if sig, err := r.sign(); err != nil || !slices.Equal(sig, first[:7]) {
		t.Errorf("a signature after SetLength(7): %x, %v", sig, err)
	}
	f.Promise("C_Sign", 7, 1)
	if sig, err := r.sign(); !errors.Is(err, pkcs11.Error(pkcs11.CKR_BUFFER_TOO_SMALL)) {
		t.Errorf("a signature after Promise(7): %x, %v, want CKR_BUFFER_TOO_SMALL", sig, err)
	}
	if err := r.resumeSign(); err != nil { // the operation is still active
		t.Fatal(err)
	}
	f.SetLength("C_GetAttributeValue", 3, 1)
	modulus := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil)}
	if a, err := r.GetAttributeValue(r.session, r.key, modulus); err != nil || len(a[0].Value) != 3 {
		t.Errorf("an attribute after SetLength(3): %v, %v", a, err)
	}
	copied := func() pkcs11.ObjectHandle {
		t.Helper()
		h, err := r.CopyObject(r.session, r.key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	made := copied()
	f.Repeat("C_CopyObject", 1)
	if h := copied(); h != made {
		t.Errorf("C_CopyObject after Repeat returned %d, want the previous handle %d", h, made)
	}
	f.Swap("C_CopyObject", 1, rig.InputHandle)
	if h := copied(); h != r.key {
		t.Errorf("C_CopyObject after Swap returned %d, want the key's handle %d", h, r.key)
	}
	f.Swap("C_GenerateKeyPair", 1, 0, uint(r.key))
	h, err := r.generate(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 1024))
	if err != nil || h != r.key {
		t.Errorf("C_GenerateKeyPair after Swap returned %d, %v, want the key's handle %d", h, err, r.key)
	}
	f.Repeat("C_OpenSession", 1)
	if s, err := r.OpenSession(r.slot, pkcs11.CKF_SERIAL_SESSION); err != nil || s != r.session {
		t.Errorf("C_OpenSession after Repeat returned %d, %v, want the previous handle %d", s, err, r.session)
	}
	a, err := r.GetAttributeValue(r.session, r.key, modulus)
	if err != nil {
		t.Fatal(err)
	}
	find := func() int {
		return len(findObjects(t, r.Ctx, r.session, a[0], pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)))
	}
	all := find()
	f.Repeat("C_FindObjects", 1)
	if n := find(); n != all+1 {
		t.Errorf("C_FindObjects after Repeat listed %d objects, want %d", n, all+1)
	}
	f.SetLength("C_FindObjects", 0, 1)
	if n := find(); n != 0 {
		t.Errorf("C_FindObjects after SetLength(0) listed %d objects, want 0", n)
	}
	for _, name := range []string{
		"C_Sign", "C_GetAttributeValue", "C_CopyObject", "C_GenerateKeyPair", "C_OpenSession", "C_FindObjects",
	} {
		if f.Pending(name) != 0 {
			t.Errorf("%d faults of %s did not occur", f.Pending(name), name)
		}
	}
}

// TestFaultsCrash makes a child process abort during a call, and then reads the number of its
// calls.
func TestFaultsCrash(t *testing.T) {
	if module := os.Getenv("KMSGATE_CRASH"); module != "" {
		pkcs11.New(module).Initialize()
		t.Fatal("C_Initialize returned, want a crash") // in the child process
	}
	newSoftHSM(t)
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	f := rig.NewFaults(t, module)
	f.Crash("C_Initialize")
	child := exec.Command(os.Args[0], "-test.run=^TestFaultsCrash$")
	child.Env = append(os.Environ(), "KMSGATE_CRASH="+f.Module)
	child.Dir = filepath.Dir(f.Module)
	var exit *exec.ExitError
	if err := child.Run(); !errors.As(err, &exit) || exit.ExitCode() == 1 {
		t.Errorf("the child process ended with %v, want a crash", err)
	}
	if f.Calls("C_Initialize") != 1 {
		t.Errorf("%d calls of C_Initialize, want 1", f.Calls("C_Initialize"))
	}
}
