package token_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
	"github.com/kmsgate/kmsgate/hsm/sealed"
)

// TestImport signs with keys from outside. Their signatures are valid for the public key that they had
// before, also after the token is opened again, and the token does not claim to have made them.
func TestImport(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	var imported []hsm.Key
	for _, spec := range []hsm.KeySpec{hsm.RSA_2048, hsm.RSA_3072, hsm.EC_P256, hsm.EC_P256K} {
		k, err := privatekey.New(spec)
		if err != nil {
			t.Fatal(err)
		}
		id := make([]byte, 16)
		rand.Read(id)
		key, err := tok.Import(t.Context(), k, id)
		if err != nil || !bytes.Equal(key.Public, k.Public()) || key.Spec != spec {
			t.Fatalf("%s: got %+v, %v", spec, key, err)
		}
		if _, err := tok.Import(t.Context(), k, id); err == nil {
			t.Errorf("%s: the same CKA_ID was imported twice", spec)
		}
		attributes, err := tok.Attributes(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"CKA_SENSITIVE": "true", "CKA_EXTRACTABLE": "false", "CKA_ALWAYS_SENSITIVE": "false", "CKA_NEVER_EXTRACTABLE": "false", "CKA_LOCAL": "false"} {
			if !slices.Contains(attributes, hsm.Attribute{Name: name, Value: want}) {
				t.Errorf("%s: %s is not %s in %v", spec, name, want, attributes)
			}
		}
		imported = append(imported, key)
	}
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	tok = open(t, config(soft))
	digest := bytes.Repeat([]byte{7}, hsm.DigestSize)
	for _, key := range imported {
		for _, alg := range hsm.Algorithms(key.Spec) {
			signature, err := tok.Sign(t.Context(), key, alg, digest)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := hsmtest.OpenSSLVerify(t.TempDir(), hsm.PublicKeyPEM(key.Public), alg, digest, signature); err != nil || !ok {
				t.Errorf("%s, %s: openssl says %v, %v", key.Spec, alg, ok, err)
			}
		}
		if err := tok.Destroy(t.Context(), key); err != nil {
			t.Error(err)
		}
		if err := tok.Has(key); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: Has after Destroy: %v", key.Spec, err)
		}
	}
	k, err := privatekey.New(hsm.EC_SM2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Import(t.Context(), k, digest[:16]); !errors.Is(err, hsm.ErrKeySpec) {
		t.Errorf("EC_SM2: got %v, want ErrKeySpec", err)
	}
	backend := sealed.New(tok)
	key, err := backend.Import(t.Context(), k.Scalar(), digest[:16])
	if err != nil || !bytes.Equal(key.Public, k.Public()) {
		t.Fatalf("EC_SM2, sealed: %v", err)
	}
	if err := sign(t.Context(), backend, key); err != nil {
		t.Error(err)
	}
	if _, err := backend.Import(t.Context(), make([]byte, 32), digest[:16]); err == nil {
		t.Error("a scalar of zero was imported")
	}
}
