package token_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// expectCounter requires that the token has a number.
func expectCounter(t *testing.T, tok *token.Token, moment string, want uint64) {
	t.Helper()
	if n, known, err := tok.Counter(t.Context()); n != want || !known || err != nil {
		t.Errorf("%s: Counter is %d, %v, %v, want %d", moment, n, known, err, want)
	}
}

func setCounter(t *testing.T, tok *token.Token, n uint64) {
	t.Helper()
	if err := tok.SetCounter(t.Context(), n); err != nil {
		t.Fatalf("SetCounter(%d): %v", n, err)
	}
}

// testCounter stores numbers in a token that has none.
func testCounter(t *testing.T, tok *token.Token) {
	if n, known, err := tok.Counter(t.Context()); known || err != nil {
		t.Fatalf("Counter of a token without a number: %d, %v, %v", n, known, err)
	}
	for _, n := range []uint64{1, 7, 7, 3, 1<<64 - 1} { // it can fall, too
		setCounter(t, tok, n)
		expectCounter(t, tok, "after SetCounter", n)
	}
}

// counterTemplate describes the objects with the counter's number.
var counterTemplate = []*pkcs11.Attribute{
	pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
	pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
	pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
	pkcs11.NewAttribute(pkcs11.CKA_LABEL, "kmsgate-audit"),
}

// plantCounter makes an object as another process with the PIN could, or as a kill leaves one.
func plantCounter(t *testing.T, module, value string) {
	t.Helper()
	p11, s := rawSession(t, module)
	plant(t, p11, s, true, value)
}

func plant(t *testing.T, p11 *pkcs11.Ctx, s pkcs11.SessionHandle, private bool, value string) {
	t.Helper()
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, private), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "kmsgate-audit"),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
	}
	if _, err := p11.CreateObject(s, template); err != nil {
		t.Fatal(err)
	}
}

// expectOneCounter requires that the token has one object with the counter's number.
func expectOneCounter(t *testing.T, module string) {
	t.Helper()
	p11, s := rawSession(t, module)
	if found := findObjects(t, p11, s, counterTemplate...); len(found) != 1 {
		t.Errorf("the token has %d objects with the counter's number, want 1", len(found))
	}
}

// TestCounter stores numbers, opens the token again, and finds the greatest number of several
// objects, as a kill between making one and destroying the others leaves them.
func TestCounter(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	testCounter(t, tok)
	setCounter(t, tok, 40)
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	tok = open(t, config(soft))
	expectCounter(t, tok, "opened again", 40)
	expectOneCounter(t, soft.Module)
	for _, value := range []string{"41", "39", "-5", "99999999999999999999", "x"} {
		plantCounter(t, soft.Module, value)
	}
	p11, s := rawSession(t, soft.Module)
	plant(t, p11, s, false, "50") // any user of a token may make such an object
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	tok = open(t, config(soft))
	expectCounter(t, tok, "with several objects", 41)
	setCounter(t, tok, 42)
	expectCounter(t, tok, "after SetCounter", 42)
	expectOneCounter(t, soft.Module)
	objects, err := tok.Objects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(objects, func(o hsm.Object) bool {
		return o.Class == hsm.ClassData && o.Purpose == hsm.PurposeCounter && o.Ours
	}) {
		t.Errorf("Objects lists no counter: %+v", objects)
	}
}

// TestCounterForeign reads an object with the counter's label that has no number. It does not pass
// for a token without a number.
func TestCounterForeign(t *testing.T) {
	soft, _ := newSoftHSM(t)
	tok := open(t, config(soft))
	plantCounter(t, soft.Module, "forty")
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	tok = open(t, config(soft))
	if n, known, err := tok.Counter(t.Context()); known || err == nil || !strings.Contains(err.Error(), "kmsgate-audit") {
		t.Errorf("Counter: %d, %v, %v, want an error that names the label", n, known, err)
	}
	setCounter(t, tok, 1)
	expectCounter(t, tok, "after SetCounter", 1)
	expectOneCounter(t, soft.Module)
}

// TestCounterCutOff ends SetCounter after the new object is made. The new number counts, and the
// next SetCounter tidies up.
func TestCounterCutOff(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.NoSessionCopies = true
	tok := open(t, cfg)
	setCounter(t, tok, 1)
	f.Fail("C_DestroyObject", pkcs11.CKR_DEVICE_ERROR, rig.Always)
	if err := tok.SetCounter(t.Context(), 2); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("SetCounter without C_DestroyObject: %v, want ErrRefused", err)
	}
	f.Clear("C_DestroyObject")
	expectCounter(t, tok, "cut off", 2)
	setCounter(t, tok, 2)
	expectCounter(t, tok, "after SetCounter", 2)
	expectOneCounter(t, f.Module)
}

// TestNoCounter has the token refuse data objects.
func TestNoCounter(t *testing.T) {
	f, cfg := newFaulty(t)
	tok := open(t, cfg)
	for _, code := range []uint{
		pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_ACTION_PROHIBITED,
	} {
		f.Fail("C_CreateObject", code, 1)
		if err := tok.SetCounter(t.Context(), 1); !errors.Is(err, hsm.ErrNoCounter) {
			t.Errorf("code %s: %v, want ErrNoCounter", strconv.FormatUint(uint64(code), 16), err)
		}
	}
	if n, known, err := tok.Counter(t.Context()); known || err != nil {
		t.Errorf("Counter: %d, %v, %v, want none", n, known, err)
	}
	setCounter(t, tok, 1)
	expectCounter(t, tok, "on a token that stores data objects again", 1)
}
