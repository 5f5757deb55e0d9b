package audit_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// TestRSAKey verifies a log with an RSA key, as in a token without curves, and checks a head with
// openssl.
func TestRSAKey(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg := config(filepath.Join(dir, "audit.log"))
	cfg.Sign = func(_ context.Context, digest []byte) ([]byte, error) {
		return private.Sign(rand.Reader, digest, crypto.SHA256)
	}
	log := openConfig(t, cfg)
	if err := log.Append(audit.Entry{Action: "AsymmetricSign"}); err != nil {
		t.Fatal(err)
	}
	head, err := log.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	key, err := audit.ParsePublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.Open(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if _, err := (audit.Verifier{Key: key, Expect: &head}).Verify(audit.File{Name: cfg.Path,
		Reader: content}); err != nil {
		t.Error(err)
	}
	files := map[string][]byte{"key.pem": public, "digest": head.Digest(), "signature": head.Signature}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openssl := exec.Command("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-in", "digest",
		"-sigfile", "signature", "-pkeyopt", "digest:sha256")
	openssl.Dir = dir
	if out, err := openssl.CombinedOutput(); err != nil {
		t.Errorf("openssl: %v: %s", err, out)
	}
	head.Signature[0] ^= 1
	if head.Check(key) {
		t.Error("Check with a flipped bit in the signature: got true, want false")
	}
	small := &rsa.PublicKey{N: private.N.Rsh(private.N, 1100), E: private.E}
	if der, err = x509.MarshalPKIXPublicKey(small); err == nil {
		if _, err := audit.DecodePublicKey(der); err == nil {
			t.Error("DecodePublicKey of an RSA key of 948 bits: got nil, want an error")
		}
	}
}
