package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// An age key for this test.
const (
	backupIdentity  = "AGE-SECRET-KEY-1L0NR8426NSYC0QA47NMPYKVZ8C9SGXSQYM5NYTTJVFYWMXDUWKKQZSXDU2"
	backupRecipient = "age1xq33d62dfm0c6ypxy7cwtepe5k8kx2x3ya7nx3uzueka39nq6fzscxus4z"
)

// An acknowledged key is one that a client was told of.
type acknowledged struct {
	keyId, versionId string
	spec             hsm.KeySpec
	publicPEM        string
}

func acknowledge(client *kms.Client, spec hsm.KeySpec, keyId string) (acknowledged, error) {
	listed, err := client.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: &keyId})
	if err != nil {
		return acknowledged{}, err
	}
	a := acknowledged{keyId: keyId, versionId: tea.StringValue(listed.Body.KeyVersions.KeyVersion[0].KeyVersionId), spec: spec}
	public, err := client.GetPublicKey(&kms.GetPublicKeyRequest{KeyId: &a.keyId, KeyVersionId: &a.versionId})
	if err == nil {
		a.publicPEM = tea.StringValue(public.Body.PublicKey)
	}
	return a, err
}

// check has the key sign, and judges the signature by the public key that the
// client has had since before.
func (a acknowledged) check(t *testing.T, client *kms.Client) {
	t.Helper()
	alg, digest := hsm.Algorithms(a.spec)[0], make([]byte, 32)
	rand.Read(digest)
	_, _, sig, err := newSDK{client}.sign(a.keyId, a.versionId, alg, digest)
	if err != nil {
		t.Errorf("%s %s does not sign: %v", a.spec, a.keyId, err)
		return
	}
	block, _ := pem.Decode([]byte(a.publicPEM))
	if ok, err := hsm.Verify(hsm.Key{Spec: a.spec, Public: block.Bytes}, alg, digest, sig); err != nil || !ok {
		t.Errorf("%s %s: hsm.Verify says %v, %v", a.spec, a.keyId, ok, err)
	}
	if ok, err := hsmtest.OpenSSLVerify(t.TempDir(), a.publicPEM, alg, digest, sig); err != nil || !ok {
		t.Errorf("%s %s: openssl says %v, %v", a.spec, a.keyId, ok, err)
	}
}

// TestBackupUnderLoad backs a gateway up while it signs and makes keys, kills it,
// deletes all that it had, and restores it. No signature failed meanwhile; every
// key that was acknowledged before the backup began signs, for the public key that
// it had; the token has what the records account for and no more; and the
// restored log proves itself.
func TestBackupUnderLoad(t *testing.T) {
	parent := t.TempDir()
	path := func(name string) string { return filepath.Join(parent, name) }
	if err := os.WriteFile(path("key.txt"), []byte(backupIdentity+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := start(t, path("gateway"))
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var keys []acknowledged // guarded by mu
	for _, spec := range devgateway.KeySpecs {
		keys = append(keys, must[acknowledged](t)(acknowledge(client, spec, g.Env["KMSGATE_KEY_"+string(spec)])))
	}
	signs := keys[2]
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	var load sync.WaitGroup
	var signatures atomic.Int64
	for range 4 {
		client := must[*kms.Client](t)(devgateway.SDK(g.Env)) // the SDK's clients are for one goroutine each
		load.Go(func() {
			for !stopped() {
				if _, _, _, err := (newSDK{client}).sign(signs.keyId, signs.versionId, hsm.ECDSA_SHA_256, make([]byte, 32)); err != nil {
					t.Errorf("a signature under load: %v", err)
					return
				}
				signatures.Add(1)
			}
		})
	}
	for n := range 3 {
		spec := []hsm.KeySpec{hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2}[n]
		client := must[*kms.Client](t)(devgateway.SDK(g.Env))
		load.Go(func() {
			for !stopped() {
				made, err := client.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String(string(spec))})
				var a acknowledged
				if err == nil {
					a, err = acknowledge(client, spec, tea.StringValue(made.Body.KeyMetadata.KeyId))
				}
				if err != nil {
					t.Errorf("a key under load: %v", err)
					return
				}
				mu.Lock()
				keys = append(keys, a)
				mu.Unlock()
			}
		})
	}
	var before []acknowledged
	for n := range 3 {
		waitFor(t, "more keys", func() bool {
			mu.Lock()
			defer mu.Unlock()
			before = slices.Clone(keys)
			return len(before) >= 12*(n+1) || t.Failed()
		})
		must[string](t)(kmsgate(t, "backup", path(fmt.Sprint("backup", n, ".age")), "--dir", g.Dir, "--recipient", backupRecipient))
	}
	close(stop)
	load.Wait()
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	auditKey := g.Env["KMSGATE_AUDIT_PUBLIC_KEY"]
	if err := os.Rename(auditKey, path("audit.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(g.Dir); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d signatures, %d keys, %d of them before the last backup", signatures.Load(), len(keys), len(before))

	said := must[string](t)(kmsgate(t, "restore", path("backup2.age"), "--dir", path("restored"), "--identity", path("key.txt"), "--audit-public-key", path("audit.pem")))
	if !strings.Contains(said, "Keys that have signed: ") {
		t.Errorf("restore said:\n%s", said)
	}
	checkObjects(t, path("restored"))
	r := start(t, path("restored"))
	for _, name := range []string{"KMSGATE_ACCESS_KEY_ID", "KMSGATE_ACCESS_KEY_SECRET", "KMSGATE_INSTANCE_ID", "KMSGATE_KEY_RSA_2048"} {
		if r.Env[name] != g.Env[name] {
			t.Errorf("%s was %q and is %q", name, g.Env[name], r.Env[name])
		}
	}
	if client, err = devgateway.SDK(r.Env); err != nil {
		t.Fatal(err)
	}
	for _, a := range before {
		a.check(t, client)
	}
	if proof := verifyAudit(t, path("restored")); len(proof.Restored) != 1 {
		t.Errorf("the log's proof is %+v, and has to say once that it was restored", proof)
	}
}

// TestRestoreKilled kills restores at random moments, until enough were killed. What
// they leave is no instance, and the next one begins anew; or it is all there.
func TestRestoreKilled(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	g := start(t, path("first"))
	if err := os.WriteFile(path("key.txt"), []byte(backupIdentity), 0o600); err != nil {
		t.Fatal(err)
	}
	must[string](t)(kmsgate(t, "backup", path("backup.age"), "--dir", g.Dir, "--recipient", backupRecipient))
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	args := []string{"restore", path("backup.age"), "--dir", path("restored"), "--identity", path("key.txt"), "--unverified"}
	random := newRandom(t)
	began := time.Now()
	must[string](t)(kmsgate(t, args...))
	whole := time.Since(began)
	cut, done := 0, 0
	for stop := soaked(12); !stop(); {
		if _, err := os.Stat(path("restored/kmsgate.yaml")); err == nil {
			done++
			if err := os.RemoveAll(path("restored")); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(binary, args...)
		cmd.Env = devgateway.Environment()
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(whole/2+time.Duration(random.Int64N(int64(whole/2))), func() { _ = cmd.Process.Kill() }) // it may have ended
		err := cmd.Wait()
		if timer.Stop() && err != nil {
			t.Fatalf("a restore that was not killed: %v: %s", err, &said)
		}
		if err != nil {
			cut++
		}
	}
	if _, err := os.Stat(path("restored/kmsgate.yaml")); err != nil {
		must[string](t)(kmsgate(t, args...))
	}
	t.Logf("%d were killed, %d got through", cut, done)
	r := start(t, path("restored"))
	for _, name := range []string{"KMSGATE_ACCESS_KEY_ID", "KMSGATE_ACCESS_KEY_SECRET", "KMSGATE_KEY_EC_P256"} {
		if r.Env[name] != g.Env[name] {
			t.Errorf("%s was %q and is %q", name, g.Env[name], r.Env[name])
		}
	}
	signAll(t, r)
}
