package hsmtest_test

import (
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

func TestFake(t *testing.T) {
	hsmtest.TestBackend(t, new(hsmtest.Fake), hsm.KeySpecs()...)
	hsmtest.TestBackend(t, new(hsmtest.Fake).Audit(), hsm.EC_P256)
	hsmtest.TestAuditKeeper(t, new(hsmtest.Fake))
	hsmtest.TestRandomizer(t, new(hsmtest.Fake))
}
