package privatekey_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
)

// TestParse reads what openssl writes, in every form. The key signs as openssl verifies, and
// has the public key that openssl computes.
func TestParse(t *testing.T) {
	dir := t.TempDir()
	openssl := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command("openssl", args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %q: %v\n%s", args, err, &stderr)
		}
		return out
	}
	check := func(spec hsm.KeySpec, text []byte) {
		t.Helper()
		k, err := privatekey.Parse(text)
		if err != nil || k.Spec() != spec {
			t.Fatalf("%s: got %s, %v", spec, k.Spec(), err)
		}
		path := filepath.Join(dir, "key.pem")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		public := hsm.PublicKeyPEM(k.Public())
		if want := string(openssl("pkey", "-in", path, "-pubout")); public != want {
			t.Errorf("%s: got public key\n%s, openssl has\n%s", spec, public, want)
		}
		digest := bytes.Repeat([]byte{7}, hsm.DigestSize)
		for _, alg := range hsm.Algorithms(spec) {
			signature, err := k.Sign(alg, digest)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := hsmtest.OpenSSLVerify(t.TempDir(), public, alg, digest, signature); err != nil || !ok {
				t.Errorf("%s, %s: openssl says %v, %v", spec, alg, ok, err)
			}
		}
		again, err := k.PEM()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := privatekey.Parse(again); err != nil || !bytes.Equal(back.Public(), k.Public()) {
			t.Errorf("%s: written and read again: %v", spec, err)
		}
		if err := os.WriteFile(path, again, 0o600); err != nil {
			t.Fatal(err)
		}
		if written := string(openssl("pkey", "-in", path, "-pubout")); written != public {
			t.Errorf("%s: openssl reads another key from what was written", spec)
		}
	}
	check(hsm.RSA_2048, openssl("genrsa", "-traditional", "2048"))
	check(hsm.RSA_3072, openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"))
	for curve, spec := range map[string]hsm.KeySpec{"P-256": hsm.EC_P256, "secp256k1": hsm.EC_P256K, "SM2": hsm.EC_SM2} {
		pkcs8 := openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:"+curve)
		check(spec, pkcs8)
		check(spec, openssl("ecparam", "-name", strings.ReplaceAll(curve, "P-256", "prime256v1"), "-genkey"))
	}
	for want, text := range map[string][]byte{
		"no private key in PEM":   []byte("x"),
		"not an unencrypted":      openssl("genrsa", "-aes128", "-passout", "pass:x", "2048"),
		"RSA key of 1024 bits":    openssl("genrsa", "1024"),
		"not on P-256":            openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
		"ed25519.PrivateKey":      openssl("genpkey", "-algorithm", "ed25519"),
		"reading PKCS#8":          []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
		"reading an ECPrivateKey": []byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"),
	} {
		if k, err := privatekey.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %s, %v", want, k.Spec(), err)
		}
	}
}
