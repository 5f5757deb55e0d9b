package token

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/kmsgate/kmsgate/hsm"
)

// auditKeys is the Backend of the audit log's key. The key has a separate label, so a search or a
// table for signing keys never yields it.
type auditKeys struct{ token *Token }

// Audit implements hsm.AuditKeeper.
func (t *Token) Audit() hsm.Backend { return auditKeys{t} }

// Reserve implements hsm.AuditKeeper.
func (t *Token) Reserve(id []byte) {
	id = slices.Clone(id)
	t.reserved.Store(&id)
}

func isReserved(t *Token, id []byte) bool {
	reserved := t.reserved.Load()
	return reserved != nil && bytes.Equal(*reserved, id)
}

// errReserved returns an error if a key is reserved for the audit log.
func errReserved(t *Token, id []byte) error {
	if isReserved(t, id) {
		return fmt.Errorf("destroying the key with CKA_ID %x: %w", id, hsm.ErrReserved)
	}
	return nil
}

// table returns the table that has the key with a CKA_ID if the key is for a use. The use is
// labelKey or labelAudit.
func (c *connection) table(use string, id []byte) *handles {
	reserved := isReserved(c.token, id)
	switch {
	case use == labelKey && reserved:
		return newHandles(labelKey) // it signs for nobody
	case use == labelAudit && reserved && c.audit.len() == 0:
		return c.handles // an earlier version made the audit log's key like a signing key
	case use == labelAudit:
		return c.audit
	}
	return c.handles
}

// known returns the object of a private key, whatever its use, or nil.
func (c *connection) known(id []byte) *object { return cmp.Or(c.handles.get(id), c.audit.get(id)) }

// Generate is Token.Generate for the audit log's key.
func (a auditKeys) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	return generate(ctx, a.token, labelAudit, spec, id)
}

// Sign is Token.Sign for the audit log's key.
func (a auditKeys) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	return sign(ctx, a.token, labelAudit, k, alg, digest)
}

// Destroy is Token.Destroy.
func (a auditKeys) Destroy(ctx context.Context, k hsm.Key) error { return a.token.Destroy(ctx, k) }

// Has is Token.Has for the audit log's key.
func (a auditKeys) Has(k hsm.Key) error { return has(a.token, labelAudit, k) }

// Forget is Token.Forget.
func (a auditKeys) Forget(k hsm.Key) { a.token.Forget(k) }

// Quarantine is Token.Quarantine for the audit log's key.
func (a auditKeys) Quarantine(ctx context.Context, k hsm.Key) error {
	return quarantine(ctx, a.token, labelAudit, k)
}

// Health is Token.Health.
func (a auditKeys) Health(ctx context.Context) error { return a.token.Health(ctx) }
