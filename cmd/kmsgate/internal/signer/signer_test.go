package signer

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/emmansun/gmsm/pkcs7"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

// A gateway answers what a Client asks, with one key of a fake backend.
type gateway struct {
	backend hsmtest.Fake
	key     hsm.Key
	change  func(signature []byte) // of every answer
	asked   []kms.AdminRequest
}

func newGateway(t *testing.T, spec hsm.KeySpec) *gateway {
	t.Helper()
	g := new(gateway)
	var err error
	if g.key, err = g.backend.Generate(t.Context(), spec, bytes.Repeat([]byte{7}, 16)); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) Call(ctx context.Context, action string, parameters map[string]string, answer any) error {
	return g.Do(ctx, kms.AdminRequest{Action: action, Parameters: parameters}, answer)
}

func (g *gateway) Do(ctx context.Context, r kms.AdminRequest, answer any) error {
	g.asked = append(g.asked, r)
	response := map[string]any{"KeyId": "k", "KeyVersionId": "v", "PublicKey": hsm.PublicKeyPEM(g.key.Public), "TotalCount": 1,
		"KeyVersions": map[string]any{"KeyVersion": []any{map[string]string{"KeyVersionId": "v"}}}}
	if r.Action == "AsymmetricSign" {
		digest, err := base64.StdEncoding.DecodeString(r.Parameters["Digest"])
		if err != nil {
			return err
		}
		signature, err := g.backend.Sign(ctx, g.key, hsm.Algorithm(r.Parameters["Algorithm"]), digest)
		if err != nil {
			return err
		}
		if g.change != nil {
			g.change(signature)
		}
		response["Value"] = signature
	}
	text, err := json.Marshal(response)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

func (g *gateway) Stream(context.Context, string, map[string]string, io.Writer) error {
	return kms.ErrNoOctets
}

func (g *gateway) Close() error { return nil }

func find(t *testing.T, g *gateway) (Client, Key) {
	t.Helper()
	c := Client{Caller: g, OnBehalfOf: "alice"}
	k, err := c.Find(t.Context(), "alias/x", "", "")
	if err != nil || k.Spec() != g.key.Spec {
		t.Fatalf("Find: got %s, %v, want %s", k.Spec(), err, g.key.Spec)
	}
	return c, k
}

// TestSign finds a key of each KeySpec and signs a message that comes in pieces.
func TestSign(t *testing.T) {
	for _, spec := range hsm.KeySpecs() {
		g := newGateway(t, spec)
		c, k := find(t, g)
		digest, err := k.Digest(io.MultiReader(strings.NewReader("mess"), strings.NewReader("age")), "")
		if err != nil {
			t.Fatal(err)
		}
		signature, err := c.Sign(t.Context(), k, digest)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hsm.Digest(g.key, k.Algorithm, []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := hsm.Verify(g.key, k.Algorithm, want, signature); err != nil || !ok {
			t.Errorf("%s: the signature does not verify: %v", spec, err)
		}
		last := g.asked[len(g.asked)-1]
		if last.OnBehalfOf != "alice" || last.Parameters["KeyVersionId"] != "v" {
			t.Errorf("%s: asked %+v, want version v on behalf of alice", spec, last)
		}
		for _, r := range g.asked[:len(g.asked)-1] {
			if r.OnBehalfOf != "" {
				t.Errorf("%s: %s is on behalf of %q, want the administrator", spec, r.Action, r.OnBehalfOf)
			}
		}
		g.change = func(signature []byte) { signature[len(signature)-1] ^= 1 }
		if _, err := c.Sign(t.Context(), k, digest); err == nil || !strings.Contains(err.Error(), "do not use it") {
			t.Errorf("%s: a signature that does not verify: got %v", spec, err)
		}
	}
}

// TestEncodings decodes what it encoded.
func TestEncodings(t *testing.T) {
	for _, spec := range hsm.KeySpecs() {
		g := newGateway(t, spec)
		c, k := find(t, g)
		signature, err := c.Sign(t.Context(), k, make([]byte, hsm.DigestSize))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range Encodings {
			for _, rs := range []bool{false, true} {
				e := Encoding{text, rs}
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
		for _, e := range []Encoding{{"hex", false}, {"base64", false}} {
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
	var k Key
	if err := k.setPublic(spki); err != nil {
		t.Fatal(err)
	}
	const want = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf\n"
	if got, err := k.PublicKey("ethereum"); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// TestCMSForSM2: gmsm verifies a CMS signature by SM2, which openssl 3.0 does not know.
func TestCMSForSM2(t *testing.T) {
	g := newGateway(t, hsm.EC_SM2)
	c, k := find(t, g)
	s, err := c.CryptoSigner(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	text, err := Request{Subject: "CN=x"}.SelfSigned(s, k, time.Now(), 1)
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := ParseCertificates(text)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("a message")
	der, err := CMS(s, k, certificates, bytes.NewReader(message))
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
	name, err := ParseSubject(`CN=a\, b, o = Example ,C=CN`)
	if want := "CN=a\\, b,O=Example,C=CN"; err != nil || name.String() != want {
		t.Errorf("got %s, %v, want %s", name, err, want)
	}
	for _, text := range []string{"", "CN", "CN=", "X=y", "CN=a,,O=b", "C=China"} {
		if _, err := ParseSubject(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
