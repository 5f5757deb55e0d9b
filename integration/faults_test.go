package integration

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/integration/devgateway"
	"github.com/kmsgate/kmsgate/softhsm"
)

// startOnFaults starts a dev gateway whose token fails on demand.
func startOnFaults(t *testing.T) (*devgateway.Gateway, *rig.Faults) {
	t.Helper()
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	f := rig.NewFaults(t, module)
	t.Setenv("SOFTHSM2_MODULE", f.Module)
	return start(t, t.TempDir()+"/gateway"), f
}

// codes are PKCS#11 return values (CKR_) that tokens fail with: errors of the host, the device, a
// session or an object, and one that only the vendor can explain. The list has no errors that blame
// the caller, such as those for a wrong PIN or an unknown mechanism.
var codes = []uint{
	0x02, 0x05, 0x06, 0x0a, // host memory, general error, function failed, cannot lock
	0x30, 0x31, 0x32, // device error, memory, removed
	0x12, 0x60, 0x82, // attribute type, key handle, object handle invalid
	0x90, 0x91, // operation active, not initialized
	0xb0, 0xb1, 0xb3, // session closed, too many, handle invalid
	0xe0, 0xe1, 0x101, // token not present, not recognized, user not logged in
	0x150, 0x80000011, // buffer too small, the vendor's
}

// functions are the PKCS#11 functions that a gateway uses, and how often in a row each may fail. If
// the canary's signature does not detect the fault, that is once: the gateway refuses a request
// that fails twice on a token that works.
var functions = map[string]int{
	"C_Initialize": 8, "C_Finalize": 8, "C_GetInfo": 8,
	"C_GetSlotList": 8, "C_GetTokenInfo": 8, "C_GetMechanismList": 8,
	"C_OpenSession": 8, "C_CloseSession": 8, "C_GetSessionInfo": 8, "C_Login": 8,
	"C_SignInit": 8, "C_Sign": 8,
	"C_FindObjectsInit": 1, "C_FindObjects": 1, "C_FindObjectsFinal": 1, "C_GetAttributeValue": 1,
	"C_GenerateKeyPair": 1, "C_CopyObject": 1, "C_DestroyObject": 1,
	"C_EncryptInit": 1, "C_Encrypt": 1, "C_DecryptInit": 1, "C_Decrypt": 1,
}

// TestFaultsUnderLoad injects random faults into a token, one after the other, while 32 callers
// sign and one creates and changes keys. Each fault ends within a second, so no call may fail: the
// timeout is 2.5 s for signing and 10 s for creating a key. No incomplete key may remain.
func TestFaultsUnderLoad(t *testing.T) {
	g, f := startOnFaults(t)
	random := newRandom(t)
	faults := map[string]func(){
		"sessions closed":      f.CloseSessions,
		"logged out":           f.Logout,
		"module reinitialised": f.Reinitialize,
		"files away": func() {
			tokens, away := g.Dir+"/softhsm/tokens", g.Dir+"/away"
			for _, move := range [][2]string{{tokens, away}, {away, tokens}} {
				if err := os.Rename(move[0], move[1]); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Duration(random.Int64N(int64(500 * time.Millisecond)))) // duration of the fault
			}
		},
		"a call hangs": func() {
			f.Hang("C_Sign", 1+random.IntN(3))
			<-time.After(time.Duration(random.Int64N(int64(900 * time.Millisecond)))) // duration of the fault
			f.Release()
		},
	}
	for function, limit := range functions {
		faults[function+" fails"] = func() {
			code, times := codes[random.IntN(len(codes))], 1+random.IntN(limit)
			t.Logf("%s fails with %#x, at most %d times", function, code, times)
			f.Fail(function, code, times)
			// The gateway must connect again, so that it calls the functions that connecting needs.
			f.CloseSessions()
			<-time.After(time.Duration(random.Int64N(int64(500 * time.Millisecond)))) // duration of the fault
			f.Clear(function)
		}
	}
	var names []string
	for name := range faults {
		names = append(names, name)
	}
	slices.Sort(names) // so that a seed always selects the same faults
	l := startLoad(t, g.Env, 32)
	changes := newLedger(random)
	changes.start(t, g.Env, 0, 1)
	for done := soaked(12); !done(); {
		name := names[random.IntN(len(names))]
		before := l.count()
		faults[name]()
		waitFor(t, "signatures after the fault "+name, func() bool { return l.count() > before+64 })
		if failures := l.failures() + changes.failures(); failures != "" {
			t.Fatalf("after the fault %q: %s", name, failures)
		}
	}
	l.end()
	changes.stop()
	if failures := l.failures() + changes.failures(); failures != "" {
		t.Errorf("after all faults: %s", failures)
	}
	if n := f.Collisions(); n != 0 {
		t.Errorf("the gateway closed sessions or finalized the module %d times during a call, want none", n)
	}
	t.Logf("%d signatures, %d changes", l.count(), changes.count(changing, answered))
	if _, metrics := observe(t, g.Env, "/metrics"); !strings.Contains(metrics, "\nkmsgate_token_connected 1\n") ||
		strings.Contains(metrics, "\nkmsgate_token_losses_total 0\n") {
		t.Errorf("the metrics do not show a token that was lost and is connected again:\n%s", metrics)
	}
	changes.check(t, g.Env)
	verifyAudit(t, g.Dir)
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
	checkObjects(t, g.Dir)
}

// failures describes the requests that were refused or failed. It returns an empty string if there
// were none.
func (l *load) failures() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.refused) == 0 && len(l.other) == 0 {
		return ""
	}
	return fmt.Sprintf("%d signatures, refused: %v, failed: %v", len(l.signed), l.refused, l.other)
}

// TestTokenHangs makes every signature hang for longer than callers wait.
func TestTokenHangs(t *testing.T) {
	g, f := startOnFaults(t)
	testHang(t, g.Env, func() { f.Hang("C_SignInit", rig.Always) }, f.Release)
}

// testHang makes a token hang for 5 s. Callers must get an error after their timeout of 2.5 s,
// operations that do not need the token must work, and /ready must report the token. When the token
// continues, everything must work again.
func testHang(t *testing.T, env map[string]string, hang, release func()) {
	t.Helper()
	client, err := devgateway.SDK(env)
	if err != nil {
		t.Fatal(err)
	}
	c := newSDK{client}
	keyId, versionId := env["KMSGATE_KEY_EC_P256"], env["KMSGATE_KEYVERSION_EC_P256"]
	digest := make([]byte, hsm.DigestSize)
	_, _, sig, err := c.sign(keyId, versionId, hsm.ECDSA_SHA_256, digest)
	if err != nil {
		t.Fatal(err)
	}
	const callers = 32
	hang()
	began := time.Now()
	type outcome struct {
		err  error
		took time.Duration
	}
	outcomes := make(chan outcome, callers)
	for range callers {
		caller, err := devgateway.SDK(env)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			began := time.Now()
			_, _, _, err := newSDK{caller}.sign(keyId, versionId, hsm.ECDSA_SHA_256, digest)
			outcomes <- outcome{err, time.Since(began)}
		}()
	}
	testWithoutToken(t, env, sig, digest)
	for range callers {
		o := <-outcomes
		if got, _ := errorCode(t, o.err); got != "503 ServiceUnavailableTemporary" {
			t.Errorf("signing with a token that hangs: got %q (%v), want 503 ServiceUnavailableTemporary", got, o.err)
		}
		// How much longer it takes depends on this machine. After 10 s, the SDK would give up with another error.
		if o.took < 2400*time.Millisecond {
			t.Errorf("signing with a token that hangs took %v, want 2.5 s at least", o.took)
		}
	}
	testWithoutToken(t, env, sig, digest)
	waitFor(t, "five seconds to pass", func() bool { return time.Since(began) > 5*time.Second })
	release()
	released := time.Now()
	if _, _, _, err := c.sign(keyId, versionId, hsm.ECDSA_SHA_256, digest); err != nil {
		t.Errorf("signing after the token continued: %v", err)
	}
	t.Logf("the first signature took %v after the token continued", time.Since(released).Round(time.Millisecond))
	waitFor(t, "readiness", func() bool {
		status, _ := observe(t, env, "/ready")
		return status == 200
	})
}

// testWithoutToken checks the operations that need no token, and the answers for supervisors: the
// gateway is live, but not ready because of the token.
func testWithoutToken(t *testing.T, env map[string]string, sig, digest []byte) {
	t.Helper()
	client, err := devgateway.SDK(env)
	if err != nil {
		t.Fatal(err)
	}
	c := newSDK{client}
	keyId, versionId := env["KMSGATE_KEY_EC_P256"], env["KMSGATE_KEYVERSION_EC_P256"]
	if ok, err := c.verify(keyId, versionId, hsm.ECDSA_SHA_256, digest, sig); err != nil || !ok {
		t.Errorf("AsymmetricVerify without a token: got %v, %v, want true", ok, err)
	}
	_, keyErr := c.publicKey(keyId, versionId)
	_, describeErr := client.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId})
	_, listErr := client.ListKeys(&kms.ListKeysRequest{})
	_, updateErr := client.UpdateKeyDescription(
		&kms.UpdateKeyDescriptionRequest{KeyId: &keyId, Description: tea.String("without a token")})
	if err := errors.Join(keyErr, describeErr, listErr, updateErr); err != nil {
		t.Errorf("operations that need no token: %v", err)
	}
	if status, body := observe(t, env, "/live"); status != 200 {
		t.Errorf("/live without a token: got %d %s, want 200", status, body)
	}
	if status, body := observe(t, env, "/ready"); status != 503 || !strings.Contains(body, "token") {
		t.Errorf("/ready without a token: got %d %s, want 503 with the reason", status, body)
	}
}
