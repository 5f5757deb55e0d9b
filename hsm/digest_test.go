package hsm_test

import (
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

// opensslKeys are the openssl options for making a key of each KeySpec and for signing a
// message with it.
var opensslKeys = map[hsm.KeySpec]struct{ make, sign string }{
	hsm.RSA_2048: {"-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "-digest sha256"},
	hsm.RSA_3072: {"-algorithm RSA -pkeyopt rsa_keygen_bits:3072", "-digest sha256"},
	hsm.RSA_4096: {"-algorithm RSA -pkeyopt rsa_keygen_bits:4096", "-digest sha256"},
	hsm.EC_P256:  {"-algorithm EC -pkeyopt ec_paramgen_curve:P-256", "-digest sha256"},
	hsm.EC_P256K: {"-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", "-digest sha256"},
	hsm.EC_SM2:   {"-algorithm SM2", "-digest sm3 -pkeyopt distid:1234567812345678"},
}

// TestDigest has openssl hash and sign messages, including an empty one.
func TestDigest(t *testing.T) {
	for _, spec := range hsm.KeySpecs() {
		t.Run(string(spec), func(t *testing.T) { testDigest(t, spec) })
	}
}

func testDigest(t *testing.T, spec hsm.KeySpec) {
	options, dir := opensslKeys[spec], t.TempDir()
	openssl(t, dir, "genpkey -out key "+options.make)
	openssl(t, dir, "pkey -in key -pubout -outform DER -out public")
	key := hsm.Key{Spec: spec, Public: read(t, dir, "public")}
	for _, message := range []string{"", "abc", strings.Repeat("message ", 1000)} {
		if err := os.WriteFile(filepath.Join(dir, "message"), []byte(message), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, alg := range hsm.Algorithms(spec) {
			padding := ""
			if alg == hsm.RSA_PSS_SHA_256 {
				padding = " -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:32"
			}
			openssl(t, dir, "pkeyutl -sign -rawin -inkey key -in message -out signature "+options.sign+padding)
			digest, err := hsm.Digest(key, alg, []byte(message))
			if err != nil {
				t.Errorf("Digest for %s: %v", alg, err)
				continue
			}
			if ok, err := hsm.Verify(key, alg, digest, read(t, dir, "signature")); err != nil || !ok {
				t.Errorf("%s: openssl's signature of %d bytes does not verify with Digest %x: %v",
					alg, len(message), digest, err)
			}
		}
	}
}

func openssl(t *testing.T, dir, args string) {
	t.Helper()
	cmd := exec.Command("openssl", strings.Fields(args)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("openssl %s: %v: %s", args, err, out)
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestDigestSHA256 tests the examples of FIPS 180-2, B.1 and B.2.
func TestDigestSHA256(t *testing.T) {
	for message, want := range map[string]string{
		"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": "" +
			"248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
	} {
		for _, key := range generateAllSpecs(t) {
			for _, alg := range hsm.Algorithms(key.Spec) {
				digest, err := hsm.Digest(key, alg, []byte(message))
				if same := hex.EncodeToString(digest) == want; err != nil || same != (key.Spec != hsm.EC_SM2) {
					t.Errorf("Digest of %q for %s under %s: %x, %v, want %s except for EC_SM2",
						message, key.Spec, alg, digest, err, want)
				}
			}
		}
	}
}

// generateAllSpecs makes one key of every KeySpec.
func generateAllSpecs(t *testing.T) (keys []hsm.Key) {
	t.Helper()
	var fake hsmtest.Fake
	for i, spec := range hsm.KeySpecs() {
		key, err := fake.Generate(t.Context(), spec, []byte{byte(i)})
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

// TestDigestRefused tries every algorithm with every key, and every key's public half
// with every other KeySpec.
func TestDigestRefused(t *testing.T) {
	algs := []hsm.Algorithm{
		"", "RSA_PSS_SHA_512", hsm.RSA_PSS_SHA_256, hsm.RSA_PKCS1_SHA_256, hsm.ECDSA_SHA_256, hsm.SM2DSA,
	}
	keys := generateAllSpecs(t)
	for _, key := range keys {
		for _, alg := range algs {
			_, err := hsm.Digest(key, alg, nil)
			fits := slices.Contains(hsm.Algorithms(key.Spec), alg)
			if fits != (err == nil) || !fits && !errors.Is(err, hsm.ErrAlgorithm) {
				t.Errorf("Digest for %s under %q: %v, want nil or ErrAlgorithm", key.Spec, alg, err)
			}
		}
		for _, other := range keys {
			wrong := hsm.Key{Spec: key.Spec, Public: other.Public}
			if _, err := hsm.Digest(wrong, hsm.Algorithms(key.Spec)[0], nil); (err == nil) != (other.Spec == key.Spec) {
				t.Errorf("Digest for %s with the public key of %s: %v, want nil only for the same KeySpec",
					key.Spec, other.Spec, err)
			}
		}
		wrong := hsm.Key{Spec: key.Spec, Public: key.Public[:len(key.Public)-1]}
		digest, err := hsm.Digest(wrong, hsm.Algorithms(key.Spec)[0], nil)
		if err == nil || errors.Is(err, hsm.ErrAlgorithm) {
			t.Errorf("Digest for %s with a truncated public key: %x, %v, want an error other than ErrAlgorithm",
				key.Spec, digest, err)
		}
	}
}

// TestNewDigest hashes a message in pieces, under an SM2 id that is not the default one. openssl
// has signed it under the same id.
func TestNewDigest(t *testing.T) {
	const id = "alice@example.com"
	message := []byte(strings.Repeat("message ", 1000))
	for _, spec := range []hsm.KeySpec{hsm.RSA_2048, hsm.EC_P256, hsm.EC_SM2} {
		options, dir := opensslKeys[spec], t.TempDir()
		openssl(t, dir, "genpkey -out key "+options.make)
		openssl(t, dir, "pkey -in key -pubout -outform DER -out public")
		key, alg := hsm.Key{Spec: spec, Public: read(t, dir, "public")}, hsm.Algorithms(spec)[len(hsm.Algorithms(spec))-1]
		if err := os.WriteFile(filepath.Join(dir, "message"), message, 0o600); err != nil {
			t.Fatal(err)
		}
		sign := strings.ReplaceAll(options.sign, hsm.DefaultSM2ID, id)
		openssl(t, dir, "pkeyutl -sign -rawin -inkey key -in message -out signature "+sign)
		h, err := hsm.NewDigest(key, alg, id)
		if err != nil {
			t.Fatal(err)
		}
		for piece := range slices.Chunk(message, 77) {
			h.Write(piece)
		}
		if ok, err := hsm.Verify(key, alg, h.Sum(nil), read(t, dir, "signature")); err != nil || !ok {
			t.Errorf("%s: openssl's signature under the id %q does not verify: %v", alg, id, err)
		}
		if _, err := hsm.NewDigest(key, alg, strings.Repeat("x", 8192)); (err != nil) != (spec == hsm.EC_SM2) {
			t.Errorf("%s: got %v for an SM2 id of 8,192 bytes", alg, err)
		}
	}
}
