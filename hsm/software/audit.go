package software

import (
	"context"

	"github.com/kmsgate/kmsgate/hsm"
)

// auditKeys is the Backend of the audit log's key.
type auditKeys struct{ token *Token }

// Audit implements hsm.AuditKeeper.
func (t *Token) Audit() hsm.Backend { return auditKeys{t} }

// Reserve implements hsm.AuditKeeper.
func (t *Token) Reserve(id []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reserved = string(id)
}

// Generate is Token.Generate for the audit log's key.
func (a auditKeys) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	return a.token.generate(ctx, spec, id, true)
}

// Sign is Token.Sign for the audit log's key.
func (a auditKeys) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	return a.token.sign(ctx, k, alg, digest, true)
}

// Destroy is Token.Destroy.
func (a auditKeys) Destroy(ctx context.Context, k hsm.Key) error { return a.token.Destroy(ctx, k) }

// Has is Token.Has for the audit log's key.
func (a auditKeys) Has(k hsm.Key) error {
	_, err := a.token.find(k.ID, true)
	return err
}

// Forget does nothing: there is no faster copy.
func (a auditKeys) Forget(hsm.Key) {}

// Quarantine is Token.Quarantine.
func (a auditKeys) Quarantine(ctx context.Context, k hsm.Key) error {
	return a.token.Quarantine(ctx, k)
}

// Health is Token.Health.
func (a auditKeys) Health(ctx context.Context) error { return a.token.Health(ctx) }
