package hsmtest

import (
	"context"

	"github.com/kmsgate/kmsgate/hsm"
)

var _ hsm.AuditKeeper = (*Fake)(nil)

// auditFake is the Backend of a Fake's audit keys.
type auditFake struct{ fake *Fake }

// Audit implements hsm.AuditKeeper.
func (f *Fake) Audit() hsm.Backend { return auditFake{f} }

// Reserve implements hsm.AuditKeeper.
func (f *Fake) Reserve(id []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reserved = string(id)
}

// isAudit reports whether a key is for the audit log. The caller holds f.mu.
func (f *Fake) isAudit(id []byte) bool { return f.audit[string(id)] || f.reserved == string(id) }

func (a auditFake) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	k, err := a.fake.Generate(ctx, spec, id)
	if err != nil {
		return k, err
	}
	a.fake.mu.Lock()
	defer a.fake.mu.Unlock()
	if a.fake.audit == nil {
		a.fake.audit = make(map[string]bool)
	}
	a.fake.audit[string(id)] = true
	return k, nil
}

func (a auditFake) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	return a.fake.sign(ctx, k, alg, digest, true)
}

func (a auditFake) Destroy(ctx context.Context, k hsm.Key) error    { return a.fake.Destroy(ctx, k) }
func (a auditFake) Has(k hsm.Key) error                             { return a.fake.has(k, true) }
func (a auditFake) Forget(k hsm.Key)                                { a.fake.Forget(k) }
func (a auditFake) Quarantine(ctx context.Context, k hsm.Key) error { return a.fake.Quarantine(ctx, k) }
func (a auditFake) Health(ctx context.Context) error                { return a.fake.Health(ctx) }
