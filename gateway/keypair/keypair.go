package keypair

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/journal"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// Config is what Pairs stand on. All of it is needed.
type Config struct {
	Records *store.Store
	Backend hsm.Backend
	Journal *journal.Journal
	Audit   *audit.Log
	Now     func() time.Time
	Logger  *slog.Logger
}

// Pairs are the key pairs of an instance. Their methods may be called from any
// goroutine. Use [New].
type Pairs struct {
	Config
	making sync.Map // KeyVersionId → true, while its key pair is being made
	freeze freeze   // who makes or destroys key pairs is inside
	health health
}

// New returns the key pairs of an instance.
func New(cfg Config) *Pairs { return &Pairs{Config: cfg} }

// destroyTimeout is how long destroying a key pair may take: SoftHSM takes 0.9 s among
// 10,000 keys.
const destroyTimeout = 3 * time.Second

// createTimeout is how long making a key pair may take.
func createTimeout(spec hsm.KeySpec) time.Duration {
	if spec == hsm.RSA_3072 || spec == hsm.RSA_4096 {
		return 25 * time.Second // seconds as a rule, with a long tail, and longer on a machine that is busy
	}
	return 10 * time.Second
}

// A Recorder writes records on behalf of a request.
type Recorder interface {
	// Record writes down what the request is going to do, which is nothing that anybody
	// can see.
	Record(f func(tx *store.Tx) error) error
	// Write makes a change that can be seen, together with the request's audit line.
	Write(f func(tx *store.Tx) error) error
}

// Create makes the key pair of a version of a KeySpec and records it, together with what
// also changes. also is tried before the token is asked. What it refuses is refused, and
// leaves nothing. Create is not cut short when ctx is done: what the token has begun it
// ends.
func (p *Pairs) Create(ctx context.Context, version store.KeyVersion, spec hsm.KeySpec, r Recorder, also func(tx *store.Tx) error) (store.KeyVersion, error) {
	ctx = context.WithoutCancel(ctx)
	making, cancel := context.WithTimeout(ctx, createTimeout(spec))
	defer cancel()
	id, err := uuid.Parse(version.KeyVersionId)
	if err != nil {
		return store.KeyVersion{}, err
	}
	if err := p.freeze.enter(making); err != nil {
		return store.KeyVersion{}, err
	}
	defer p.freeze.leave()
	orphan := store.Orphan{KeyVersionId: version.KeyVersionId, Since: version.CreationDate, Key: hsm.Key{ID: id[:], Spec: spec}}
	p.making.Store(orphan.KeyVersionId, true)
	defer p.making.Delete(orphan.KeyVersionId)
	err = r.Record(func(tx *store.Tx) error {
		if err := tx.Try(also); err != nil {
			return err
		}
		return tx.Orphans().Put(orphan)
	})
	if err != nil {
		return store.KeyVersion{}, err
	}
	version.Key, err = p.Backend.Generate(making, spec, id[:])
	if errors.Is(err, hsm.ErrKeySpec) {
		err = fmt.Errorf("%w: %w", kms.ErrUnsupportedOperation.Because("The token of this instance makes no %s keys.", spec), err)
	}
	if err == nil {
		err = r.Write(func(tx *store.Tx) error {
			return errors.Join(also(tx), tx.Versions().Put(version), tx.Orphans().Delete(orphan.KeyVersionId))
		})
	}
	if errors.Is(err, store.ErrUncertain) {
		return store.KeyVersion{}, err // the version may be recorded: its key pair must not be destroyed
	}
	if err != nil {
		orphan.Key.Sealed = version.Key.Sealed
		return store.KeyVersion{}, errors.Join(err, p.destroy(ctx, orphan))
	}
	return version, nil
}

// destroy destroys a key pair that belongs to no version, then the record
// of it. If that fails the record stays, and it is tried again. The caller is
// inside p.freeze.
func (p *Pairs) destroy(ctx context.Context, o store.Orphan) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	if err := p.Backend.Destroy(ctx, o.Key); err != nil {
		return err
	}
	return p.Records.Update(func(tx *store.Tx) error { return tx.Orphans().Delete(o.KeyVersionId) })
}

// Making reports whether a key pair is being made.
func (p *Pairs) Making() (making bool) {
	p.making.Range(func(_, _ any) bool {
		making = true
		return false
	})
	return making
}

// Forget drops what is kept of a key's private halves outside of where they
// live. It is for keys that do not sign any more.
func (p *Pairs) Forget(keyId string) {
	for _, v := range p.Records.Now().VersionsOf(keyId) {
		p.Backend.Forget(v.Key)
	}
}

// CheckRecord refuses a version whose key pair is not the one that was made for
// this record: a record that was given another's would sign with another's key.
func CheckRecord(version store.KeyVersion, key store.Key) error {
	if id, err := uuid.Parse(version.KeyVersionId); err != nil || !bytes.Equal(id[:], version.Key.ID) || version.Key.Spec != key.KeySpec {
		return fmt.Errorf("%w (the record of version %s holds the key pair %x of KeySpec %s)",
			kms.ErrKeyUnavailable, version.KeyVersionId, version.Key.ID, version.Key.Spec)
	}
	return nil
}
