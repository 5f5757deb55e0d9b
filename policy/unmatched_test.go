package policy_test

import (
	"slices"
	"testing"

	"github.com/kmsgate/kmsgate/policy"
)

func TestUnmatchedActions(t *testing.T) {
	p, err := policy.Parse(`{"Version":"1","Statement":[
		{"Effect":"Allow","Action":["kms:AsymmetricSign","KMS:asymmetricverify","kms:AsymetricSign","kms:Get*"],"Resource":"*"},
		{"Effect":"Deny","Action":["kms:AsymetricSign","kms:Encrypt*","oss:GetObject","*"],"Resource":"*"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	got := p.UnmatchedActions([]string{"kms:AsymmetricSign", "kms:AsymmetricVerify", "kms:GetPublicKey"})
	want := []string{"kms:asymetricsign", "kms:encrypt*", "oss:getobject"}
	if !slices.Equal(got, want) {
		t.Errorf("unmatched actions: got %q, want %q", got, want)
	}
}
