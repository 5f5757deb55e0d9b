package keypair

import (
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

// A Config configures Pairs. All fields are required.
type Config struct {
	Records *store.Store
	Backend hsm.Backend
	Journal *journal.Journal
	Audit   *audit.Log
	Now     func() time.Time
	Logger  *slog.Logger

	// ReadClock returns the time, and why it cannot be believed, or "" if it can. While it cannot, no key is
	// deleted.
	ReadClock func() (now time.Time, problem string)
}

// A Pairs manages the key pairs of an instance. Its methods are safe for concurrent use. Use [New]
// to make one.
type Pairs struct {
	cfg    Config
	making sync.Map // KeyVersionId → true while the version's key pair is being made
	freeze freeze   // entered while a key pair is being made or destroyed
	health health
	uses   useLog
}

// New returns a Pairs for the key pairs of an instance.
func New(cfg Config) *Pairs {
	cfg.Backend = hsm.NewRoute(cfg.Backend, cfg.Logger)
	return &Pairs{cfg: cfg}
}

// destroyTimeout limits how long destroying a key pair may take. With 10,000 keys in the token,
// SoftHSM takes 0.9 s.
const destroyTimeout = 3 * time.Second

// createTimeout returns how long making a key pair may take, unless the caller says.
func createTimeout(spec hsm.KeySpec) time.Duration {
	if spec == hsm.RSA_3072 || spec == hsm.RSA_4096 {
		return 25 * time.Second // usually seconds, but with a long tail, and longer on a busy machine
	}
	return 10 * time.Second
}

// A Recorder writes records on behalf of a request.
type Recorder interface {
	// Record changes records that no client can see. Such a change needs no audit line.
	Record(f func(tx *store.Tx) error) error
	// Write changes records in one transaction with the request's audit line.
	Write(f func(tx *store.Tx) error) error
}

// Create makes the key pair of a version and records the version, in one transaction with the
// changes that update makes. It calls update twice: once on records that it discards, before the
// token makes anything, and once on the records that it commits. If either call fails, Create
// returns its error.
//
// If Create returns an error, no version is recorded, and the pair is destroyed now or by a later
// CarryOutDeletions. The exception is store.ErrUncertain: the version may be recorded later, so its pair
// is kept until that is known. For a KeySpec that the token does not offer, the error is kms.ErrUnsupportedOperation.
// The token may take until ctx's deadline. Without a deadline, and if ctx is cancelled, it may take 10 s,
// 25 s for RSA_3072 and RSA_4096, so that Create finishes what it has begun.
func (p *Pairs) Create(ctx context.Context, version store.KeyVersion, spec hsm.KeySpec, r Recorder,
	update func(tx *store.Tx) error) (store.KeyVersion, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(createTimeout(spec))
	}
	making, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	// A caller that has left, or a gateway that stops, waits no longer than a caller without a deadline.
	usual := time.Now().Add(createTimeout(spec))
	defer context.AfterFunc(ctx, func() { time.AfterFunc(time.Until(usual), cancel) })()
	ctx = context.WithoutCancel(ctx)
	id, err := uuid.Parse(version.KeyVersionId)
	if err != nil {
		return store.KeyVersion{}, err
	}
	if err := p.freeze.enter(making); err != nil {
		return store.KeyVersion{}, err
	}
	defer p.freeze.exit()
	if p.cfg.Backend.Has(hsm.Key{ID: id[:]}) == nil { // ids are random, except in tests
		return store.KeyVersion{}, fmt.Errorf("there is a key pair with the id %s already", version.KeyVersionId)
	}
	orphan := store.Orphan{
		KeyVersionId: version.KeyVersionId,
		Since:        version.CreationDate,
		Key:          hsm.Key{ID: id[:], Spec: spec},
	}
	p.making.Store(orphan.KeyVersionId, true)
	defer p.making.Delete(orphan.KeyVersionId)
	err = r.Record(func(tx *store.Tx) error {
		if err := tx.Try(update); err != nil {
			return err
		}
		return tx.Orphans().Put(orphan)
	})
	if err != nil {
		return store.KeyVersion{}, err
	}
	version.Key, err = p.cfg.Backend.Generate(making, spec, id[:])
	if errors.Is(err, hsm.ErrKeySpec) {
		answer := kms.ErrUnsupportedOperation.Because("The token of this instance cannot make %s keys.", spec)
		err = fmt.Errorf("%w: %w", answer, err)
	}
	if err == nil {
		err = r.Write(func(tx *store.Tx) error {
			return errors.Join(update(tx), tx.Versions().Create(version), tx.Orphans().Delete(orphan.KeyVersionId))
		})
	}
	if errors.Is(err, store.ErrUncertain) {
		// The version may be recorded, so its key pair must not be destroyed.
		return store.KeyVersion{}, err
	}
	if err != nil {
		orphan.Key.Sealed = version.Key.Sealed
		return store.KeyVersion{}, errors.Join(err, p.destroy(ctx, orphan))
	}
	p.health.record(version, nil) // Generate has made a signature
	return version, nil
}

// destroy destroys a key pair that belongs to no version, and then deletes the orphan. If
// destroying the pair fails, the orphan stays, so that CarryOutDeletions tries again. The caller
// must have entered p.freeze.
func (p *Pairs) destroy(ctx context.Context, o store.Orphan) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	if err := p.cfg.Backend.Destroy(ctx, o.Key); err != nil {
		return err
	}
	return p.cfg.Records.Update(func(tx *store.Tx) error { return tx.Orphans().Delete(o.KeyVersionId) })
}

// Making reports whether a key pair is being made.
func (p *Pairs) Making() (making bool) {
	p.making.Range(func(_, _ any) bool {
		making = true
		return false
	})
	return making
}

// Forget makes the backend drop the copies of a key's private halves that it keeps outside the
// token. It is for a key that must not sign any more.
func (p *Pairs) Forget(keyId string) {
	for _, v := range p.cfg.Records.Now().VersionsOf(keyId) {
		p.cfg.Backend.Forget(v.Key)
	}
}
