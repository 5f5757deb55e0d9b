package integration

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/integration/devgateway"
	"github.com/kmsgate/kmsgate/kmsgatetest"
)

// maxGrowth is how much larger kmsgatetest makes a test's binary, in bytes, as docs/dev.md has it.
const maxGrowth = 25 << 20

// TestInsideTest signs through the official SDK with a gateway inside this test, as other projects do.
func TestInsideTest(t *testing.T) {
	t.Parallel()
	g := kmsgatetest.Start(t, "")
	sdk, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("hello"))
	for _, spec := range devgateway.KeySpecs {
		keyId, versionId := g.Key(t, string(spec))
		for _, alg := range hsm.Algorithms(spec) {
			_, _, signature, err := newSDK{sdk}.sign(keyId, versionId, alg, digest[:])
			if err != nil {
				t.Fatal(err)
			}
			public, err := newSDK{sdk}.publicKey(keyId, versionId)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := hsmtest.OpenSSLVerify(t.TempDir(), public, alg, digest[:], signature); err != nil || !ok {
				t.Errorf("%s: openssl says %v, %v", alg, ok, err)
			}
		}
	}
}

// TestSeedDocumented starts a gateway with the seed that docs/dev.md shows.
func TestSeedDocumented(t *testing.T) {
	t.Parallel()
	_, seed, _ := strings.Cut(readPage(t, "../docs/dev.md"), "\n```yaml\n")
	seed, _, _ = strings.Cut(seed, "\n```\n")
	path := filepath.Join(t.TempDir(), "app.pem")
	if out, err := exec.Command("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, err := exec.Command("openssl", "pkey", "-in", path, "-pubout").Output()
	if err != nil {
		t.Fatal(err)
	}
	g := kmsgatetest.Start(t, strings.Replace(seed, "app.pem", path, 1))
	sdk, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	keyId, versionId := g.Key(t, "EC_P256")
	if public, err := (newSDK{sdk}).publicKey(keyId, versionId); err != nil || strings.TrimSpace(public) != strings.TrimSpace(string(want)) {
		t.Errorf("the public key is %q, %v, want %q", public, err, want)
	}
}

// TestInsideTestGrowth compares test binaries of packages with and without a gateway.
func TestInsideTestGrowth(t *testing.T) {
	t.Parallel()
	size := func(pkg string) int64 {
		path := filepath.Join(t.TempDir(), "test")
		cmd := exec.Command("go", "test", "-c", "-o", path, pkg)
		cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	if growth := size("./kmsgatetest") - size("./internal/secret"); growth > maxGrowth {
		t.Errorf("a test's binary grows by %d bytes, want at most %d", growth, maxGrowth)
	} else {
		t.Logf("a test's binary grows by %.1f MiB", float64(growth)/(1<<20))
	}
}
