package integration

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ThalesGroup/crypto11"
	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// secondOpinion is the environment variable that makes a child of the test's binary sign through
// crypto11: the CKA_ID of a key, a digest and the padding, each but the last in hexadecimal.
const secondOpinion = "KMSGATE_TEST_SECOND_OPINION"

// TestCrypto11 signs with kmsgate, and with crypto11's own signer through the same token. Both make
// the same RSA_PKCS1_SHA_256 signature, byte for byte, and find the same public key. kmsgate verifies
// every signature of crypto11, and finds it not valid for another message.
func TestCrypto11(t *testing.T) {
	if text := os.Getenv(secondOpinion); text != "" {
		signThroughCrypto11(t, text)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	g := start(t, dir)
	message := filepath.Join(dir, "message")
	if err := os.WriteFile(message, []byte("a message"), 0o600); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("a message"))
	env := g.Env
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ alias, version, algorithm string }{
		{"alias/dev-rsa-2048", env["KMSGATE_KEYVERSION_RSA_2048"], "RSA_PKCS1_SHA_256"},
		{"alias/dev-rsa-2048", env["KMSGATE_KEYVERSION_RSA_2048"], "RSA_PSS_SHA_256"},
		{"alias/dev-ec-p256", env["KMSGATE_KEYVERSION_EC_P256"], "ECDSA_SHA_256"},
	} {
		id, err := uuid.Parse(c.version)
		if err != nil {
			t.Fatal(err)
		}
		child := exec.Command(os.Args[0], "-test.run=^TestCrypto11$", "-test.count=1")
		child.Env = append(devgateway.Environment(), secondOpinion+"="+hex.EncodeToString(id[:])+" "+hex.EncodeToString(digest[:])+" "+c.algorithm,
			"SOFTHSM2_CONF="+filepath.Join(dir, "softhsm", "softhsm2.conf"), "PIN_FILE="+filepath.Join(dir, "softhsm", "pin"))
		out, err := child.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: crypto11: %v\n%s", c.algorithm, err, out)
		}
		_, text, _ := strings.Cut(string(out), "signature ")
		text, _, _ = strings.Cut(text, "\n")
		theirs, err := hex.DecodeString(text)
		if err != nil {
			t.Fatalf("%s: crypto11 printed %q: %v", c.algorithm, out, err)
		}
		ours, err := kmsgate(t, "sign", "--dir", dir, "--as-administrator", "--key", c.alias, "--algorithm", c.algorithm, "--encoding", "raw", message)
		if err != nil {
			t.Fatal(err)
		}
		if c.algorithm == "RSA_PKCS1_SHA_256" && ours != string(theirs) {
			t.Errorf("%s: kmsgate's signature is %x, crypto11's %x", c.algorithm, ours, theirs)
		}
		signature := filepath.Join(dir, "signature")
		if err := os.WriteFile(signature, theirs, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := kmsgate(t, "verify", "--dir", dir, "--key", c.alias, "--algorithm", c.algorithm, "--encoding", "raw", "--signature", signature, message); err != nil {
			t.Errorf("%s: kmsgate on crypto11's signature: %s, %v", c.algorithm, out, err)
		}
		another := filepath.Join(dir, "another")
		if err := os.WriteFile(another, []byte("another message"), 0o600); err != nil {
			t.Fatal(err)
		}
		// A signature of another file, and a file that holds no signature in base64.
		for encoding, reason := range map[string]string{"raw": "", "base64": ": the signature is not base64"} {
			verify := []string{"verify", "--dir", dir, "--key", c.alias, "--algorithm", c.algorithm, "--encoding", encoding, "--signature", signature, another}
			out, err := kmsgate(t, verify...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(out, another+": NOT VALID") || !strings.Contains(out, reason) {
				t.Errorf("%s: kmsgate on a wrong signature, %s: got %q, %v, want NOT VALID%s, exit status 1", c.algorithm, encoding, out, err, reason)
			}
			out, err = kmsgate(t, append(verify, "-o", "json")...)
			var results []struct {
				Valid  *bool
				Reason string
			}
			if jsonErr := json.Unmarshal([]byte(out), &results); jsonErr != nil || err == nil || len(results) != 1 ||
				results[0].Valid == nil || *results[0].Valid || (results[0].Reason != "") != (reason != "") {
				t.Errorf("%s: kmsgate on a wrong signature, %s, for programs: got %s, %v", c.algorithm, encoding, out, err)
			}
		}
		public, err := kmsgate(t, "public-key", "--dir", dir, "--key", c.alias)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(public))
		if block == nil || !strings.Contains(string(out), "public "+hex.EncodeToString(block.Bytes)+"\n") {
			t.Errorf("%s: crypto11 finds another public key than kmsgate:\n%s\n%s", c.algorithm, out, public)
		}
	}
}

func signThroughCrypto11(t *testing.T, text string) {
	var id, digest []byte
	var algorithm string
	if _, err := fmt.Sscanf(text, "%x %x %s", &id, &digest, &algorithm); err != nil {
		t.Fatal(err)
	}
	pin, err := os.ReadFile(os.Getenv("PIN_FILE"))
	if err != nil {
		t.Fatal(err)
	}
	module := os.Getenv("SOFTHSM2_MODULE")
	if module == "" {
		module = "/usr/lib/softhsm/libsofthsm2.so"
	}
	c, err := crypto11.Configure(&crypto11.Config{Path: module, TokenLabel: "kmsgate", Pin: string(bytes.TrimSpace(pin))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	signer, err := c.FindKeyPair(id, nil)
	if err != nil || signer == nil {
		t.Fatalf("finding the key pair: %v", err)
	}
	var opts crypto.SignerOpts = crypto.SHA256
	if algorithm == "RSA_PSS_SHA_256" {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	signature, err := signer.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("signature %x\npublic %x\n", signature, public)
}
