package hsmtest_test

import (
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

func TestFake(t *testing.T) {
	hsmtest.TestBackend(t, new(hsmtest.Fake), hsm.KeySpecs()...)
	hsmtest.TestRandomizer(t, new(hsmtest.Fake))
}
