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

// startOnFaults starts a dev gateway whose token fails when it is told to.
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

// The codes of PKCS#11 that tokens fail with: by the device's fault, by a session's,
// by an object's, and by what only their vendors know. None says that it is the
// caller's own, as a wrong PIN's or an unknown mechanism's does.
var codes = []uint{
	0x02, 0x05, 0x06, 0x0a, // host memory, general error, function failed, cannot lock
	0x30, 0x31, 0x32, // device error, memory, removed
	0x12, 0x60, 0x82, // attribute type, key handle, object handle invalid
	0x90, 0x91, // operation active, not initialized
	0xb0, 0xb1, 0xb3, // session closed, too many, handle invalid
	0xe0, 0xe1, 0x101, // token not present, not recognized, user not logged in
	0x150, 0x80000011, // buffer too small, the vendor's
}

// functions are those of PKCS#11 that a gateway uses, and how often in a row each
// fails at most. Where the canary's signature does not show that the token is not
// well, that is once: what fails twice on a token that is well is refused.
var functions = map[string]int{
	"C_Initialize": 8, "C_Finalize": 8, "C_GetInfo": 8, "C_GetSlotList": 8, "C_GetTokenInfo": 8, "C_GetMechanismList": 8,
	"C_OpenSession": 8, "C_CloseSession": 8, "C_GetSessionInfo": 8, "C_Login": 8,
	"C_SignInit": 8, "C_Sign": 8,
	"C_FindObjectsInit": 1, "C_FindObjects": 1, "C_FindObjectsFinal": 1, "C_GetAttributeValue": 1,
	"C_GenerateKeyPair": 1, "C_CopyObject": 1, "C_DestroyObject": 1,
	"C_EncryptInit": 1, "C_Encrypt": 1, "C_DecryptInit": 1, "C_Decrypt": 1,
}

// TestFaultsUnderLoad has a token fail in every way that there is, one after the
// other and drawn at random, under 32 callers that sign and one that makes keys.
// Each fault ends within a second, so no call may fail: to sign they have 2.5 s,
// to make a key 10. And no half-made key may stay.
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
				<-time.After(time.Duration(random.Int64N(int64(500 * time.Millisecond)))) // how long the fault takes
			}
		},
		"a call hangs": func() {
			f.Hang("C_Sign", 1+random.IntN(3))
			<-time.After(time.Duration(random.Int64N(int64(900 * time.Millisecond)))) // how long the fault takes
			f.Release()
		},
	}
	for function, most := range functions {
		faults[function+" fails"] = func() {
			code, times := codes[random.IntN(len(codes))], 1+random.IntN(most)
			t.Logf("%s fails with %#x, %d times at most", function, code, times)
			f.Fail(function, code, times)
			f.CloseSessions()                                                         // or what connecting is made of would not be called
			<-time.After(time.Duration(random.Int64N(int64(500 * time.Millisecond)))) // how long the fault takes
			f.Clear(function)
		}
	}
	var names []string
	for name := range faults {
		names = append(names, name)
	}
	slices.Sort(names) // so that a seed draws the same
	l := startLoad(t, g.Env, 32)
	all := &made{versions: make(map[string]string)}
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	l.callers.Go(func() {
		for !l.stop.Load() {
			keyId, versionId, err := newKey(client)
			if err != nil {
				t.Errorf("making a key: %v", err)
				return
			}
			all.add(keyId, versionId)
			<-time.After(20 * time.Millisecond) // so that there are not too many
		}
	})
	for done := soaked(12); !done(); {
		name := names[random.IntN(len(names))]
		before := l.count()
		faults[name]()
		waitFor(t, "signatures after: "+name, func() bool { return l.count() > before+64 })
		if bad := l.bad(); bad != "" {
			t.Fatalf("after %q: %s", name, bad)
		}
	}
	l.end()
	if bad := l.bad(); bad != "" {
		t.Errorf("in the end: %s", bad)
	}
	if n := f.Collisions(); n != 0 {
		t.Errorf("sessions were closed or the module finalized %d times over a call", n)
	}
	t.Logf("%d signatures, %d keys made", l.count(), all.len())
	if _, metrics := observe(t, g.Env, "/metrics"); !strings.Contains(metrics, "\nkmsgate_token_connected 1\n") || strings.Contains(metrics, "\nkmsgate_token_losses_total 0\n") {
		t.Errorf("the metrics do not tell of a token that was lost and is back:\n%s", metrics)
	}
	checkMade(t, g, all)
	verifyAudit(t, g.Dir)
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
	checkObjects(t, g.Dir)
}

// bad tells what was refused or failed, if anything.
func (l *load) bad() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.refused) == 0 && len(l.other) == 0 {
		return ""
	}
	return fmt.Sprintf("%d signatures, refused: %v, failed: %v", len(l.signed), l.refused, l.other)
}

// TestTokenHangs has every call of the token hang for longer than callers wait.
func TestTokenHangs(t *testing.T) {
	g, f := startOnFaults(t)
	hangs(t, g.Env, func() { f.Hang("C_SignInit", rig.Always) }, f.Release)
}

// hangs has a token hang for five seconds. Callers leave when their time is over;
// what does not need the token goes on; who asks is told; and when the token goes
// on, so does everything.
func hangs(t *testing.T, env map[string]string, hang, release func()) {
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
	left := make(chan outcome, callers)
	for range callers {
		caller, err := devgateway.SDK(env)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			began := time.Now()
			_, _, _, err := newSDK{caller}.sign(keyId, versionId, hsm.ECDSA_SHA_256, digest)
			left <- outcome{err, time.Since(began)}
		}()
	}
	worksWithoutToken(t, env, sig, digest)
	for range callers {
		o := <-left
		if o.err == nil {
			t.Error("a signature came from a token that hangs")
		} else if got, _ := seen(t, o.err); got != "503 ServiceUnavailableTemporary" {
			t.Errorf("a caller got %q: %v", got, o.err)
		}
		if o.took < 2400*time.Millisecond || o.took > 4500*time.Millisecond { // the race detector and 32 SDKs take their time, too
			t.Errorf("a caller left after %v, want 2.5 s", o.took)
		}
	}
	worksWithoutToken(t, env, sig, digest)
	waitFor(t, "five seconds to be over", func() bool { return time.Since(began) > 5*time.Second })
	release()
	released := time.Now()
	if _, _, _, err := c.sign(keyId, versionId, hsm.ECDSA_SHA_256, digest); err != nil {
		t.Errorf("after the token went on: %v", err)
	}
	t.Logf("a signature %v after the token went on", time.Since(released).Round(time.Millisecond))
	waitFor(t, "readiness", func() bool {
		status, _ := observe(t, env, "/ready")
		return status == 200
	})
}

// worksWithoutToken asks for all that needs no token, and for what supervisors
// ask: it runs, and is not ready, and says why.
func worksWithoutToken(t *testing.T, env map[string]string, sig, digest []byte) {
	t.Helper()
	client, err := devgateway.SDK(env)
	if err != nil {
		t.Fatal(err)
	}
	c := newSDK{client}
	keyId, versionId := env["KMSGATE_KEY_EC_P256"], env["KMSGATE_KEYVERSION_EC_P256"]
	if ok, err := c.verify(keyId, versionId, hsm.ECDSA_SHA_256, digest, sig); err != nil || !ok {
		t.Errorf("AsymmetricVerify: %v, %v", ok, err)
	}
	_, keyErr := c.publicKey(keyId, versionId)
	_, describeErr := client.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId})
	_, listErr := client.ListKeys(&kms.ListKeysRequest{})
	_, updateErr := client.UpdateKeyDescription(&kms.UpdateKeyDescriptionRequest{KeyId: &keyId, Description: tea.String("without a token")})
	if err := errors.Join(keyErr, describeErr, listErr, updateErr); err != nil {
		t.Errorf("without a token: %v", err)
	}
	if status, body := observe(t, env, "/live"); status != 200 {
		t.Errorf("/live: %d %s", status, body)
	}
	if status, body := observe(t, env, "/ready"); status != 503 || !strings.Contains(body, "token") {
		t.Errorf("/ready: %d %s", status, body)
	}
}
