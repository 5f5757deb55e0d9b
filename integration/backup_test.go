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

// An age key pair for these tests.
const (
	backupIdentity  = "AGE-SECRET-KEY-1L0NR8426NSYC0QA47NMPYKVZ8C9SGXSQYM5NYTTJVFYWMXDUWKKQZSXDU2"
	backupRecipient = "age1xq33d62dfm0c6ypxy7cwtepe5k8kx2x3ya7nx3uzueka39nq6fzscxus4z"
)

// An acknowledged key is a key that the gateway has returned to a client.
type acknowledged struct {
	keyId, versionId string
	spec             hsm.KeySpec
	publicPEM        string
}

// acknowledge looks up the first version of a key and its public key.
func acknowledge(client *kms.Client, spec hsm.KeySpec, keyId string) (acknowledged, error) {
	listed, err := client.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: &keyId})
	if err != nil {
		return acknowledged{}, err
	}
	versionId := tea.StringValue(listed.Body.KeyVersions.KeyVersion[0].KeyVersionId)
	a := acknowledged{keyId: keyId, versionId: versionId, spec: spec}
	public, err := client.GetPublicKey(&kms.GetPublicKeyRequest{KeyId: &a.keyId, KeyVersionId: &a.versionId})
	if err == nil {
		a.publicPEM = tea.StringValue(public.Body.PublicKey)
	}
	return a, err
}

// check signs with the key and verifies the signature with the public key that acknowledge looked
// up.
func (a acknowledged) check(t *testing.T, client *kms.Client) {
	t.Helper()
	alg, digest := hsm.Algorithms(a.spec)[0], make([]byte, 32)
	rand.Read(digest)
	_, _, sig, err := newSDK{client}.sign(a.keyId, a.versionId, alg, digest)
	if err != nil {
		t.Errorf("signing with the %s key %s: %v", a.spec, a.keyId, err)
		return
	}
	block, _ := pem.Decode([]byte(a.publicPEM))
	if ok, err := hsm.Verify(hsm.Key{Spec: a.spec, Public: block.Bytes}, alg, digest, sig); err != nil || !ok {
		t.Errorf("%s key %s: hsm.Verify returned %v, %v", a.spec, a.keyId, ok, err)
	}
	if ok, err := hsmtest.OpenSSLVerify(t.TempDir(), a.publicPEM, alg, digest, sig); err != nil || !ok {
		t.Errorf("%s key %s: openssl returned %v, %v", a.spec, a.keyId, ok, err)
	}
}

// TestBackupUnderLoad backs a gateway up while it signs and creates keys, kills it, deletes its
// directory, and restores it. No signature may fail during the backups. Every key that was
// acknowledged before the last backup must sign with the same public key. The token must have the
// objects that the records account for and no more, and the restored audit log must verify.
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
		keys = append(keys, require[acknowledged](t)(acknowledge(client, spec, g.Env["KMSGATE_KEY_"+string(spec)])))
	}
	signer := keys[2]
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
		client := require[*kms.Client](t)(devgateway.SDK(g.Env)) // an SDK client is not safe for concurrent use
		load.Go(func() {
			for !stopped() {
				digest := make([]byte, hsm.DigestSize)
				_, _, _, err := (newSDK{client}).sign(signer.keyId, signer.versionId, hsm.ECDSA_SHA_256, digest)
				if err != nil {
					t.Errorf("signing under load: %v", err)
					return
				}
				signatures.Add(1)
			}
		})
	}
	for n := range 3 {
		spec := []hsm.KeySpec{hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2}[n]
		client := require[*kms.Client](t)(devgateway.SDK(g.Env))
		load.Go(func() {
			for !stopped() {
				created, err := client.CreateKey(&kms.CreateKeyRequest{KeySpec: tea.String(string(spec))})
				var a acknowledged
				if err == nil {
					a, err = acknowledge(client, spec, tea.StringValue(created.Body.KeyMetadata.KeyId))
				}
				if err != nil {
					t.Errorf("creating a key under load: %v", err)
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
		file := path(fmt.Sprint("backup", n, ".age"))
		require[string](t)(kmsgate(t, "backup", file, "--dir", g.Dir, "--recipient", backupRecipient))
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

	printed := require[string](t)(kmsgate(t, "restore", path("backup2.age"), "--target", path("restored"),
		"--identity", path("key.txt"), "--audit-public-key", path("audit.pem")))
	if !strings.Contains(printed, " keys signed. ") {
		t.Errorf("restore does not report the keys that signed:\n%s", printed)
	}
	checkObjects(t, path("restored"))
	r := start(t, path("restored"))
	for _, name := range []string{
		"KMSGATE_ACCESS_KEY_ID", "KMSGATE_ACCESS_KEY_SECRET", "KMSGATE_INSTANCE_ID", "KMSGATE_KEY_RSA_2048",
	} {
		if r.Env[name] != g.Env[name] {
			t.Errorf("%s after the restore: got %q, want %q", name, r.Env[name], g.Env[name])
		}
	}
	if client, err = devgateway.SDK(r.Env); err != nil {
		t.Fatal(err)
	}
	for _, a := range before {
		a.check(t, client)
	}
	if proof := verifyAudit(t, path("restored")); len(proof.Restored) != 1 {
		t.Errorf("verifying the audit log: got %+v, want one restore", proof)
	}
}

// TestRestoreKilled kills restores at random moments. A killed restore must leave either no
// instance, so that the next restore starts from the beginning, or a complete one.
func TestRestoreKilled(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	g := start(t, path("first"))
	if err := os.WriteFile(path("key.txt"), []byte(backupIdentity), 0o600); err != nil {
		t.Fatal(err)
	}
	require[string](t)(kmsgate(t, "backup", path("backup.age"), "--dir", g.Dir, "--recipient", backupRecipient))
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	args := []string{"restore", path("backup.age"), "--target", path("restored"),
		"--identity", path("key.txt"), "--unverified"}
	random := newRandom(t)
	began := time.Now()
	require[string](t)(kmsgate(t, args...))
	whole := time.Since(began)
	killed, completed := 0, 0
	for stop := soaked(12); !stop(); {
		if _, err := os.Stat(path("restored/kmsgate.yaml")); err == nil {
			completed++
			if err := os.RemoveAll(path("restored")); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(binary, args...)
		cmd.Env = devgateway.Environment()
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		delay := whole/2 + time.Duration(random.Int64N(int64(whole/2)))
		timer := time.AfterFunc(delay, func() { _ = cmd.Process.Kill() }) // it may have exited
		err := cmd.Wait()
		if timer.Stop() && err != nil {
			t.Fatalf("restore, which was not killed: %v: %s", err, &stderr)
		}
		if err != nil {
			killed++
		}
	}
	if _, err := os.Stat(path("restored/kmsgate.yaml")); err != nil {
		require[string](t)(kmsgate(t, args...))
	}
	t.Logf("%d restores were killed, %d completed", killed, completed)
	r := start(t, path("restored"))
	for _, name := range []string{"KMSGATE_ACCESS_KEY_ID", "KMSGATE_ACCESS_KEY_SECRET", "KMSGATE_KEY_EC_P256"} {
		if r.Env[name] != g.Env[name] {
			t.Errorf("%s after the restore: got %q, want %q", name, r.Env[name], g.Env[name])
		}
	}
	signAll(t, r)
}
