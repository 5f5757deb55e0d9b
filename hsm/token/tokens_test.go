package token_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/hsm/hsmtest/rig"
	"github.com/kmsgate/kmsgate/hsm/sealed"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// newRemote returns a SoftHSM token in another process.
func newRemote(t *testing.T) (*rig.Remote, token.Config) {
	t.Helper()
	soft, _ := newSoftHSM(t)
	remote := rig.P11Kit(t, os.Getenv("SOFTHSM2_CONF"))
	cfg := config(soft)
	cfg.Module = remote.Module
	return remote, cfg
}

// TestP11Kit tests the contract with a token in another process. The token has no AES, so
// its sealing key is an HMAC key.
func TestP11Kit(t *testing.T) {
	_, cfg := newRemote(t)
	tok := open(t, cfg)
	t.Run("token", func(t *testing.T) {
		hsmtest.TestBackend(t, tok, hsm.RSA_2048, hsm.RSA_3072, hsm.EC_P256, hsm.EC_P256K)
	})
	t.Run("sealed", func(t *testing.T) { hsmtest.TestBackend(t, sealed.New(tok), hsm.EC_SM2) })
	t.Run("audit", func(t *testing.T) { hsmtest.TestAuditKeeper(t, tok) })
	t.Run("counter", func(t *testing.T) { testCounter(t, tok) })
	t.Run("random", func(t *testing.T) { hsmtest.TestRandomizer(t, tok) })
}

// TestOpenCryptoki tests the contract with a token that supports RSA only.
func TestOpenCryptoki(t *testing.T) {
	soft := rig.OpenCryptoki(t)
	tok := open(t, token.Config{Module: soft.Module, Label: soft.Label, PIN: token.PIN(soft.PIN), Provision: true})
	t.Run("token", func(t *testing.T) { hsmtest.TestBackend(t, tok, hsm.RSA_2048, hsm.RSA_3072) })
	t.Run("sealed", func(t *testing.T) { hsmtest.TestBackend(t, sealed.New(tok), hsm.EC_SM2) })
	t.Run("audit", func(t *testing.T) { hsmtest.TestBackend(t, tok.Audit(), hsm.RSA_2048) })
	t.Run("counter", func(t *testing.T) { testCounter(t, tok) })
	t.Run("random", func(t *testing.T) { hsmtest.TestRandomizer(t, tok) })
	for _, spec := range []hsm.KeySpec{hsm.EC_P256, hsm.EC_P256K} {
		_, err := tok.Generate(t.Context(), spec, make([]byte, 16))
		if !errors.Is(err, hsm.ErrKeySpec) || !strings.Contains(err.Error(), string(spec)) {
			t.Errorf("Generate(%s) on a token without curves: %v, want ErrKeySpec with the KeySpec", spec, err)
		}
	}
}

// TestSealingMethods hides mechanisms of a token. A secret sealed by HMAC still unseals after
// the token has gained AES-GCM.
func TestSealingMethods(t *testing.T) {
	f, cfg := newFaulty(t)
	f.HideMechanisms(pkcs11.CKM_AES_GCM, pkcs11.CKM_SHA256_HMAC)
	_, err := token.Open(cfg)
	if err == nil || !strings.Contains(err.Error(), "CKM_AES_GCM") || !strings.Contains(err.Error(), "CKM_SHA256_HMAC") {
		t.Errorf("Open of a token that cannot seal: %v, want the missing mechanisms", err)
	}
	f.HideMechanisms(pkcs11.CKM_AES_GCM)
	tok := open(t, cfg)
	sealedText, err := tok.Seal(t.Context(), []byte("secret"), []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	tok.Close()
	f.HideMechanisms()
	tok = open(t, cfg)
	if got, err := tok.Unseal(t.Context(), sealedText, []byte("aad")); err != nil || string(got) != "secret" {
		t.Errorf("Unseal: %q, %v", got, err)
	}
}

// TestStandardInput checks that descriptor 0 stays open, although opencryptoki closes it.
func TestStandardInput(t *testing.T) {
	soft := rig.OpenCryptoki(t)
	tok := open(t, token.Config{Module: soft.Module, Label: soft.Label, PIN: token.PIN(soft.PIN), Provision: true})
	for range 2 {
		if _, err := unix.FcntlInt(0, unix.F_GETFD, 0); err != nil {
			t.Errorf("descriptor 0: %v", err)
		}
		tok.Close()
	}
}
