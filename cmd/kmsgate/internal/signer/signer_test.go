package signer_test

import (
	"bytes"
	"encoding/hex"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/emmansun/gmsm/pkcs7"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer/signertest"
	"github.com/kmsgate/kmsgate/hsm"
)

func find(t *testing.T, g *signertest.Gateway) (signer.Client, signer.Key) {
	t.Helper()
	c := signer.Client{Caller: g, OnBehalfOf: "alice"}
	k, err := c.Find(t.Context(), "alias/x", "", "")
	if err != nil || k.Spec() != g.Key.Spec {
		t.Fatalf("Find: got %s, %v, want %s", k.Spec(), err, g.Key.Spec)
	}
	return c, k
}

// TestSign finds a key of each KeySpec and signs a message that comes in pieces.
func TestSign(t *testing.T) {
	for _, spec := range hsm.KeySpecs() {
		g := signertest.NewGateway(t, spec)
		c, k := find(t, g)
		digest, err := k.Digest(io.MultiReader(strings.NewReader("mess"), strings.NewReader("age")), "")
		if err != nil {
			t.Fatal(err)
		}
		signature, err := c.Sign(t.Context(), k, digest)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hsm.Digest(g.Key, k.Algorithm, []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := hsm.Verify(g.Key, k.Algorithm, want, signature); err != nil || !ok {
			t.Errorf("%s: the signature does not verify: %v", spec, err)
		}
		last := g.Asked()[len(g.Asked())-1]
		if last.OnBehalfOf != "alice" || last.Parameters["KeyVersionId"] != "v" {
			t.Errorf("%s: asked %+v, want version v on behalf of alice", spec, last)
		}
		for _, r := range g.Asked()[:len(g.Asked())-1] {
			if r.OnBehalfOf != "" {
				t.Errorf("%s: %s is on behalf of %q, want the administrator", spec, r.Action, r.OnBehalfOf)
			}
		}
		g.Change = func(signature []byte) { signature[len(signature)-1] ^= 1 }
		if _, err := c.Sign(t.Context(), k, digest); err == nil || !strings.Contains(err.Error(), "do not use it") {
			t.Errorf("%s: a signature that does not verify: got %v", spec, err)
		}
	}
}

// TestEncodings decodes what it encoded.
func TestEncodings(t *testing.T) {
	for _, spec := range hsm.KeySpecs() {
		g := signertest.NewGateway(t, spec)
		c, k := find(t, g)
		signature, err := c.Sign(t.Context(), k, make([]byte, hsm.DigestSize))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range signer.Encodings {
			for _, rs := range []bool{false, true} {
				e := signer.Encoding{Text: text, RS: rs}
				encoded, err := e.Encode(k, signature)
				isRSA := strings.HasPrefix(string(spec), "RSA")
				if rs && (isRSA || text == "der") || isRSA && text == "der" {
					if err == nil {
						t.Errorf("%s has the form %+v", spec, e)
					}
					continue
				}
				decoded, decodeErr := e.Decode(k, encoded)
				if err != nil || decodeErr != nil || !bytes.Equal(decoded, signature) {
					t.Errorf("%s, %+v: got %x, %v, %v, want %x", spec, e, decoded, err, decodeErr, signature)
				}
				if rs && text == "raw" && len(encoded) != 64 {
					t.Errorf("%s: r and s have %d bytes, want 64", spec, len(encoded))
				}
			}
		}
		for _, e := range []signer.Encoding{{Text: "hex"}, {Text: "base64"}} {
			if _, err := e.Decode(k, []byte("!")); err == nil {
				t.Errorf("%+v accepts !", e)
			}
		}
	}
}

// TestEthereum: the key with the private key 1 has a well-known address.
func TestEthereum(t *testing.T) {
	point, err := hex.DecodeString("0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8")
	if err != nil {
		t.Fatal(err)
	}
	spki, err := hsm.MarshalECPublicKey(hsm.EC_P256K, point)
	if err != nil {
		t.Fatal(err)
	}
	k, err := signer.NewKey("k", "v", "", spki)
	if err != nil {
		t.Fatal(err)
	}
	const want = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf\n"
	if got, err := k.PublicKey("ethereum"); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// TestCMSForSM2: gmsm verifies a CMS signature by SM2, which openssl 3.0 does not know.
func TestCMSForSM2(t *testing.T) {
	g := signertest.NewGateway(t, hsm.EC_SM2)
	c, k := find(t, g)
	s, err := c.CryptoSigner(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signer.Request{Subject: "CN=x"}.SelfSigned(s, k, time.Now(), 1)
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := signer.ParseCertificates(text)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("a message")
	der, err := signer.CMS(s, k, certificates, bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	for content, valid := range map[string]bool{"a message": true, "another": false} {
		parsed, err := pkcs7.Parse(der)
		if err != nil {
			t.Fatal(err)
		}
		parsed.Content = []byte(content)
		if err := parsed.Verify(); (err == nil) != valid {
			t.Errorf("%q: got %v, want valid %v", content, err, valid)
		}
	}
}

func TestParseSubject(t *testing.T) {
	name, err := signer.ParseSubject(`CN=a\, b, o = Example ,C=CN`)
	if want := "CN=a\\, b,O=Example,C=CN"; err != nil || name.String() != want {
		t.Errorf("got %s, %v, want %s", name, err, want)
	}
	for _, text := range []string{"", "CN", "CN=", "X=y", "CN=a,,O=b", "C=China"} {
		if _, err := signer.ParseSubject(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
