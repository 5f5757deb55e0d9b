package hsm_test

import (
	"errors"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

func TestRoute(t *testing.T) {
	var token, sealed hsmtest.Fake
	route := hsm.Route{Token: &token, Sealed: &sealed}
	for i, spec := range hsm.KeySpecs() {
		if _, err := route.Generate(t.Context(), spec, []byte{byte(i)}); err != nil {
			t.Fatalf("Generate %s: %v", spec, err)
		}
	}
	if token.Len() != len(hsm.KeySpecs())-1 || sealed.Len() != 1 {
		t.Errorf("%d keys in the token and %d sealed, want all but EC_SM2 in the token", token.Len(), sealed.Len())
	}
	down := errors.New("down")
	for _, half := range []*hsmtest.Fake{&token, &sealed} {
		half.Fail(down)
		if err := route.Health(t.Context()); !errors.Is(err, down) {
			t.Errorf("Health with one half down: %v", err)
		}
		half.Fail(nil)
	}
}
