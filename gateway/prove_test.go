package gateway_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// setVersion changes the record of the bench's key version, as an attacker could who can write to
// the database.
func (b *bench) setVersion(change func(v *store.KeyVersion)) {
	b.t.Helper()
	err := b.db.Update(func(tx *store.Tx) error {
		v, err := tx.Version(b.key.KeyId, b.key.KeyVersionId)
		if err != nil {
			return err
		}
		change(&v)
		return tx.Versions().Put(v)
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// expectOfKey asks every operation that answers with the bench's key pair. Each must get the same
// answer.
func (b *bench) expectOfKey(c nativeClient, moment string, status int, code string) {
	b.t.Helper()
	version := []string{"KeyId", b.key.KeyId, "KeyVersionId", b.key.KeyVersionId}
	for action, p := range map[string][]string{
		"GetPublicKey": version, "AsymmetricVerify": b.signParams("Value", "AAAA"), "AsymmetricSign": b.signParams(),
	} {
		if a := b.want(b.do(b.root, action, p...), status, code); status != 200 && (a.Body["PublicKey"] != nil || a.Body["Value"] != nil) {
			b.t.Errorf("%s, %s: got %v, want no result", moment, action, a.Body)
		}
	}
	message := []byte("message")
	for name, a := range map[string]answer{
		"GetPublicKey": c.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}, new(nativepb.GetPublicKeyResponse)),
		"Verify":       c.do("Verify", &nativepb.VerifyRequest{KeyId: b.key.KeyId, Message: message, Signature: []byte{0}}, new(nativepb.VerifyResponse)),
		"Sign":         c.do("Sign", &nativepb.SignRequest{KeyId: b.key.KeyId, Message: message}, new(nativepb.SignResponse)),
	} {
		if a.Status != status || a.Code != code {
			b.t.Errorf("%s, native %s: got %d %s, want %d %s", moment, name, a.Status, a.Code, status, code)
		}
	}
}

// TestExchangedPublicKey puts another public key into the record of a version, with and without a
// restart. No operation answers with it.
func TestExchangedPublicKey(t *testing.T) {
	for name, restart := range map[string]bool{"while the gateway runs": false, "before a start": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.newAccessPoint("app", []string{"key/*"})
			c := b.newNativeClient("app")
			b.expectOfKey(c, "before", 200, "")
			evil, good := b.record(b.newPair(hsm.EC_P256).KeyId).Key.Public, b.record(b.key.KeyId).Key.Public
			b.setVersion(func(v *store.KeyVersion) { v.Key.Public = evil })
			if restart {
				b.stop()
				b.start()
			}
			b.expectOfKey(c, "with another public key", 409, "Rejected.Unavailable")
			p := params("Kind", "batch", "Document", strings.Repeat("0a", 32),
				"KeyVersions.1.KeyId", b.key.KeyId, "KeyVersions.1.KeyVersionId", b.key.KeyVersionId)
			if err := b.server.Call(t.Context(), "CreateAttestation", p, nil); !errors.Is(err, kms.ErrKeyUnavailable) {
				t.Errorf("CreateAttestation: got %v, want %v", err, kms.ErrKeyUnavailable)
			}
			b.setVersion(func(v *store.KeyVersion) { v.Key.Public = good })
			b.local("TestKeyVersion", nil, "KeyId", b.key.KeyId, "KeyVersionId", b.key.KeyVersionId)
			b.expectOfKey(c, "with its own public key and a test signature", 200, "")
		})
	}
}

// TestUnprovenPublicKey asks for a public key after a start without a token. Nothing is answered of a
// version before its first signature; afterwards the token is not needed.
func TestUnprovenPublicKey(t *testing.T) {
	b := newBench(t)
	version := []string{"KeyId", b.key.KeyId, "KeyVersionId", b.key.KeyVersionId}
	ask := func(status int, code string) {
		t.Helper()
		b.want(b.do(b.root, "GetPublicKey", version...), status, code)
		b.want(b.do(b.root, "AsymmetricVerify", b.signParams("Value", "AAAA")...), status, code)
	}
	b.backend.Fail(hsm.ErrUnavailable)
	ask(200, "") // the token has made the key pair in this process
	b.backend.Fail(nil)
	b.stop()
	b.start()
	b.backend.Fail(hsm.ErrUnavailable)
	ask(503, "ServiceUnavailableTemporary")
	b.want(b.do(b.root, "GetPublicKey", append(version, "DryRun", "true")...), 400, "DryRunOperationError")
	b.backend.Fail(nil)
	ask(200, "")
	b.backend.Fail(hsm.ErrUnavailable)
	ask(200, "")
}

// TestPlantedAuditKey plants the audit log's key in the record of a version. It signs nothing, and
// nothing is answered with it.
func TestPlantedAuditKey(t *testing.T) {
	b := newBench(t)
	b.newAccessPoint("app", []string{"key/*"})
	c := b.newNativeClient("app")
	auditKey := b.record(b.key.KeyId).Key // its id fits the record, as that of a planted key does
	err := b.db.Update(func(tx *store.Tx) error { return tx.SetAuditKey(auditKey) })
	if err != nil {
		t.Fatal(err)
	}
	b.expectOfKey(c, "the version's record has the audit log's key", 409, "Rejected.Unavailable")
	// Even if nothing compared the records, the token keeps the key apart.
	if err := b.db.Update(func(tx *store.Tx) error { return tx.SetAuditKey(hsm.Key{}) }); err != nil {
		t.Fatal(err)
	}
	b.backend.Reserve(auditKey.ID)
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 409, "Rejected.Unavailable")
}
