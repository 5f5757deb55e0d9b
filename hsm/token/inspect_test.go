package token_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
)

// TestSurvey surveys a token before and after it is provisioned.
func TestSurvey(t *testing.T) {
	soft, _ := newSoftHSM(t)
	var before hsm.Survey
	err := token.Inspect(config(soft), func(i hsm.Inspector) (err error) {
		before, err = i.Survey(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(readObjects(t, soft)) != 0 {
		t.Error("Inspect left objects in the token")
	}
	tok := open(t, config(soft))
	after, err := tok.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !after.Copies {
		t.Error("Survey.Copies is false, want true on SoftHSM")
	}
	for name, survey := range map[string]hsm.Survey{"not provisioned": before, "provisioned": after} {
		if survey.Module.Path != soft.Module || survey.Module.Manufacturer != "SoftHSM" ||
			survey.Token.Label != softhsm.Label || survey.Sealing != hsm.SealAESGCM {
			t.Errorf("%s: %+v, %+v, sealing by %q", name, survey.Module, survey.Token, survey.Sealing)
		}
		if !slices.ContainsFunc(survey.Mechanisms, func(m hsm.Mechanism) bool {
			return m.Name == "CKM_ECDSA" && slices.Contains(m.Flags, "SIGN")
		}) {
			t.Errorf("%s: no CKM_ECDSA with the flag SIGN among %d mechanisms", name, len(survey.Mechanisms))
		}
		for i, spec := range hsm.KeySpecs() {
			o := survey.Offers[i]
			tried := spec == hsm.RSA_2048 || spec == hsm.EC_P256 || spec == hsm.EC_P256K
			if o.KeySpec != spec || !o.Offered || o.Software != (spec == hsm.EC_SM2) || tried != (o.Generate > 0 && o.Sign > 0) {
				t.Errorf("%s: %+v for %s", name, o, spec)
			}
		}
	}
}

// readObjects lists the objects of a token that is not open.
func readObjects(t *testing.T, soft *softhsm.Token) (all []hsm.Object) {
	t.Helper()
	err := token.Inspect(config(soft), func(i hsm.Inspector) (err error) {
		all, err = i.Objects(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestObjects lists the objects of a token, both kmsgate's and another application's.
func TestObjects(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	keys := make(map[hsm.KeySpec]hsm.Key)
	for _, spec := range []hsm.KeySpec{hsm.RSA_2048, hsm.EC_P256, hsm.EC_P256K} {
		keys[spec] = generate(t, tok, spec)
	}
	p11, s := rawSession(t, soft.Module)
	if _, err := p11.CreateObject(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, "somebody else's"),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, []byte("value")),
	}); err != nil {
		t.Fatal(err)
	}
	objects, err := tok.Objects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	for _, o := range objects {
		counts[o.Class+"/"+o.Purpose]++
		if o.Purpose != hsm.PurposeKey {
			continue
		}
		key := keys[o.KeySpec]
		if !bytes.Equal(o.ID, key.ID) || o.Class == hsm.ClassPublicKey && !bytes.Equal(o.Public, key.Public) ||
			o.Class == hsm.ClassPrivateKey && o.Public != nil {
			t.Errorf("the object %+v does not match the key %+v", o, key)
		}
	}
	for kind, want := range map[string]int{
		"private key/key": 3, "public key/key": 3, "private key/canary": 1, "public key/canary": 1,
		"secret key/sealing": 1, "data/": 1,
	} {
		if counts[kind] != want {
			t.Errorf("%d objects of class/purpose %s, want %d", counts[kind], kind, want)
		}
	}
	t.Run("Destroy", func(t *testing.T) { testDestroyObject(t, tok, objects, keys[hsm.EC_P256]) })
}

func testDestroyObject(t *testing.T, tok *token.Token, objects []hsm.Object, key hsm.Key) {
	find := func(holds func(o hsm.Object) bool) hsm.Object {
		return objects[slices.IndexFunc(objects, holds)]
	}
	foreign := find(func(o hsm.Object) bool { return !o.Ours })
	if err := tok.DestroyObject(t.Context(), foreign); err == nil {
		t.Error("DestroyObject of another application's object: nil, want an error")
	}
	private := find(func(o hsm.Object) bool { return o.Class == hsm.ClassPrivateKey && bytes.Equal(o.ID, key.ID) })
	other := private
	other.ID = bytes.Repeat([]byte{1}, len(private.ID))
	if err := tok.DestroyObject(t.Context(), other); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("DestroyObject of an object that has changed: %v, want ErrNotFound", err)
	}
	if err := sign(t.Context(), tok, key); err != nil {
		t.Fatal(err)
	}
	if err := tok.DestroyObject(t.Context(), private); err != nil {
		t.Fatal(err)
	}
	if err := sign(t.Context(), tok, key); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("Sign with a destroyed private key: %v, want ErrNotFound", err)
	}
	if err := tok.DestroyObject(t.Context(), private); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("DestroyObject again: %v, want ErrNotFound", err)
	}
}

// TestAttributes reads what the token reports of a key in it, and of the key that seals.
func TestAttributes(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	key := generate(t, tok, hsm.EC_P256)
	protected := []hsm.Attribute{{Name: "CKA_SENSITIVE", Value: "true"}, {Name: "CKA_ALWAYS_SENSITIVE", Value: "true"},
		{Name: "CKA_EXTRACTABLE", Value: "false"}, {Name: "CKA_NEVER_EXTRACTABLE", Value: "true"}, {Name: "CKA_LOCAL", Value: "true"}}
	attributes := map[string][]hsm.Attribute{
		hsm.ClassPrivateKey: {{Name: "CKA_LABEL", Value: "kmsgate"}, {Name: "CKA_KEY_TYPE", Value: "EC"}, {Name: "CKA_ID", Value: hex.EncodeToString(key.ID)},
			{Name: "CKA_KEY_GEN_MECHANISM", Value: "CKM_EC_KEY_PAIR_GEN"}, {Name: "CKA_SIGN", Value: "true"}, {Name: "CKA_DECRYPT", Value: "false"}},
		hsm.ClassSecretKey: {{Name: "CKA_LABEL", Value: "kmsgate-sealing"}, {Name: "CKA_KEY_TYPE", Value: "AES"}, {Name: "CKA_ENCRYPT", Value: "true"}},
	}
	check := func(i hsm.Inspector) {
		t.Helper()
		for class, k := range map[string]hsm.Key{hsm.ClassPrivateKey: key, hsm.ClassSecretKey: {ID: key.ID, Sealed: []byte{1}}} {
			got, err := i.Attributes(t.Context(), k)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range append([]hsm.Attribute{{Name: "CKA_CLASS", Value: class}}, append(attributes[class], protected...)...) {
				if !slices.Contains(got, want) {
					t.Errorf("the %s: got %v, want %v in it", class, got, want)
				}
			}
		}
		unknown := hsm.Key{ID: bytes.Repeat([]byte{9}, 16)}
		if _, err := i.Attributes(t.Context(), unknown); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("an unknown key: got %v, want ErrNotFound", err)
		}
	}
	check(tok)
	tok.Close()
	err := token.Inspect(config(soft), func(i hsm.Inspector) error {
		check(i)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
