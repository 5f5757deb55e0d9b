package kmsgatetest_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/apiclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/secret"
	"github.com/kmsgate/kmsgate/kmsgatetest"
)

// TestStart signs with two gateways at the same time, one with a seed.
func TestStart(t *testing.T) {
	t.Parallel()
	const seed = `
users:
  - {name: app, policies: [AliyunKMSFullAccess], access_keys: [{id: LTAI0001, secret: s3cret}]}
keys:
  - {id: key-1, spec: EC_P256, versions: [{id: 11111111-1111-4111-8111-111111111111}]}
`
	fixed, random := kmsgatetest.Start(t, seed), kmsgatetest.Start(t, "")
	if keyId, versionId := fixed.Key(t, "EC_P256"); keyId != "key-1" || versionId != "11111111-1111-4111-8111-111111111111" || fixed.AccessKeyId != "LTAI0001" || fixed.AccessKeySecret != "s3cret" {
		t.Errorf("the seed's gateway is %+v", fixed)
	}
	for _, g := range []*kmsgatetest.Gateway{fixed, random} {
		sign(t, g)
	}
}

func sign(t *testing.T, g *kmsgatetest.Gateway) {
	t.Helper()
	ca, err := os.ReadFile(g.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c, err := apiclient.New(apiclient.Config{Endpoint: g.Endpoint, RootCAs: roots, AccessKeyId: g.AccessKeyId, AccessKeySecret: secret.Text(g.AccessKeySecret)})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("hello"))
	keyId, versionId := g.Key(t, "EC_P256")
	var signed kms.AsymmetricSignResponse
	if err := c.Call(t.Context(), "AsymmetricSign", map[string]string{"KeyId": keyId, "KeyVersionId": versionId, "Algorithm": "ECDSA_SHA_256",
		"Digest": base64.StdEncoding.EncodeToString(digest[:])}, &signed); err != nil {
		t.Fatal(err)
	}
	var public kms.GetPublicKeyResponse
	if err := c.Call(t.Context(), "GetPublicKey", map[string]string{"KeyId": keyId, "KeyVersionId": versionId}, &public); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(public.PublicKey))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(key.(*ecdsa.PublicKey), digest[:], signed.Value) {
		t.Error("the signature is not valid")
	}
}

// A failing is a test that records its failure instead of failing.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// TestMistakes: what cannot be had fails the test with a message.
func TestMistakes(t *testing.T) {
	for want, f := range map[string]func(t testing.TB){
		"kmsgatetest: the seed has mistakes:\nline 1: there is no field key": func(t testing.TB) { kmsgatetest.Start(t, "key: []\n") },
		"kmsgatetest: the seed has mistakes:\nuser \"kmsgate\" is reserved":  func(t testing.TB) { kmsgatetest.Start(t, "users: [{name: kmsgate}]\n") },
		"kmsgatetest: the gateway has no key of KeySpec EC_P256":             func(t testing.TB) { kmsgatetest.Start(t, "keys: []\n").Key(t, "EC_P256") },
	} {
		fails := &failing{TB: t}
		done := make(chan bool)
		go func() {
			defer close(done)
			f(fails)
		}()
		<-done
		if !strings.HasPrefix(fails.message, want) {
			t.Errorf("got %q, want %q", fails.message, want)
		}
	}
}
