package hsmtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
)

// Fake is an hsm.Backend, hsm.Sealer, hsm.Randomizer and hsm.AuditKeeper in memory, for tests of
// code that uses a backend. It supports every KeySpec, passes TestBackend, and fails on request.
// The zero value is ready for use.
type Fake struct {
	mu   sync.Mutex
	keys map[string]signer // by Key.ID
	fail error

	failDestroy, failGenerate error

	forgotten []hsm.Key

	made    map[string]hsm.Key // by Key.ID; for Objects
	planted []hsm.Object

	audit    map[string]bool // by Key.ID; made for the audit log
	reserved string          // the Key.ID that Reserve keeps for the audit log
}

var (
	_ hsm.Backend = (*Fake)(nil)
	_ hsm.Sealer  = (*Fake)(nil)
)

type signer func(alg hsm.Algorithm, digest []byte) ([]byte, error)

// Fail makes every later call return err until Fail(nil). If err is ErrPanic, calls panic
// instead. If err is ErrHang, calls wait until their context is done.
func (f *Fake) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

// FailDestroy makes every later call of Destroy return err, until
// FailDestroy(nil).
func (f *Fake) FailDestroy(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failDestroy = err
}

// FailGenerate makes every later call of Generate return err, until
// FailGenerate(nil).
func (f *Fake) FailGenerate(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failGenerate = err
}

// ErrPanic, given to [Fake.Fail], makes calls panic.
var ErrPanic = errors.New("panic")

// ErrHang, given to [Fake.Fail], makes calls wait for their context.
var ErrHang = errors.New("hang")

func (f *Fake) failure(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	fail := f.fail
	f.mu.Unlock()
	switch fail {
	case ErrPanic:
		panic("hsmtest: Fail(ErrPanic)")
	case ErrHang:
		<-ctx.Done()
		return ctx.Err()
	}
	return fail
}

// Generate makes a key in memory.
func (f *Fake) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	if err := f.failure(ctx); err != nil {
		return hsm.Key{}, err
	}
	private, err := privatekey.New(spec)
	if err != nil {
		return hsm.Key{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failGenerate != nil {
		return hsm.Key{}, f.failGenerate
	}
	if f.keys == nil {
		f.keys = make(map[string]signer)
	}
	f.keys[string(id)] = private.Sign
	return f.remember(hsm.Key{ID: id, Spec: spec, Public: private.Public()}), nil
}

// Sign signs with a key that Generate made. It calls hsm.Check first, for tests that use a
// Fake without a Route.
func (f *Fake) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	return f.sign(ctx, k, alg, digest, false)
}

// sign signs with a key that is for signing or, with audit, for the audit log.
func (f *Fake) sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte, audit bool) ([]byte, error) {
	if err := hsm.Check(k.Spec, alg, digest); err != nil {
		return nil, err
	}
	if err := f.failure(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	sign, ok := f.keys[string(k.ID)]
	ok = ok && f.isAudit(k.ID) == audit
	f.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("%w: %x", hsm.ErrNotFound, k.ID)
	}
	return sign(alg, digest)
}

// Destroy forgets a key.
func (f *Fake) Destroy(ctx context.Context, k hsm.Key) error {
	if err := f.failure(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failDestroy != nil {
		return f.failDestroy
	}
	if f.reserved == string(k.ID) {
		return fmt.Errorf("destroying key %x: %w", k.ID, hsm.ErrReserved)
	}
	delete(f.keys, string(k.ID))
	delete(f.made, string(k.ID))
	delete(f.audit, string(k.ID))
	return nil
}

// Has reports whether Generate made k.
func (f *Fake) Has(k hsm.Key) error {
	return f.has(k, false)
}

func (f *Fake) has(k hsm.Key, audit bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.keys[string(k.ID)]; !ok || f.isAudit(k.ID) != audit {
		return fmt.Errorf("%w: %x", hsm.ErrNotFound, k.ID)
	}
	return nil
}

// Forget records k for Forgotten.
func (f *Fake) Forget(k hsm.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgotten = append(f.forgotten, k)
}

// Forgotten returns the keys that Forget was called with, in order.
func (f *Fake) Forgotten() []hsm.Key {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.forgotten)
}

// Quarantine does nothing, since a Fake keeps no copies of its keys. It returns the error set
// by Fail.
func (f *Fake) Quarantine(ctx context.Context, _ hsm.Key) error { return f.failure(ctx) }

// Health returns the error set by Fail.
func (f *Fake) Health(ctx context.Context) error { return f.failure(ctx) }

// IDs returns the ids of the keys that exist, sorted.
func (f *Fake) IDs() (ids [][]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(f.keys)) {
		ids = append(ids, []byte(id))
	}
	return ids
}

// Len returns the number of keys that exist.
func (f *Fake) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.keys)
}
