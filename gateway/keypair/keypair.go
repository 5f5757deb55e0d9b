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

// Config says what Pairs work with. All fields are needed.
type Config struct {
	Records *store.Store
	Backend hsm.Backend
	Journal *journal.Journal
	Audit   *audit.Log
	Now     func() time.Time
	Logger  *slog.Logger
}

// Pairs manage the key pairs of an instance. Their methods may be called from any
// goroutine. Use [New].
type Pairs struct {
	cfg    Config
	making sync.Map // KeyVersionId → true, while its key pair is being made
	freeze freeze   // entered while a key pair is made or destroyed
	health health
}

// New returns the key pairs of an instance.
func New(cfg Config) *Pairs {
	cfg.Backend = hsm.Verified(cfg.Backend, cfg.Logger)
	return &Pairs{cfg: cfg}
}

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
	// Record changes records in a way that nobody can see: it needs no audit line.
	Record(f func(tx *store.Tx) error) error
	// Write changes records, in one transaction with the request's audit line.
	Write(f func(tx *store.Tx) error) error
}

// Create makes the key pair of a version and records the version, in one transaction with
// the changes that also makes. It calls also twice: first on records that are thrown away,
// before the token makes anything, then for good. An error of either call is Create's
// error.
//
// If Create returns an error, no version is recorded, and the pair is destroyed now or by a
// later CarryOutDeletions. Only after store.ErrUncertain the version may be recorded; its
// pair is kept then. A KeySpec that the token does not offer is
// kms.ErrUnsupportedOperation. Create does not end with ctx: it finishes what it has begun.
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
	version.Key, err = p.cfg.Backend.Generate(making, spec, id[:])
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
	if err := p.cfg.Backend.Destroy(ctx, o.Key); err != nil {
		return err
	}
	return p.cfg.Records.Update(func(tx *store.Tx) error { return tx.Orphans().Delete(o.KeyVersionId) })
}

// Making reports whether a key pair is being made at this moment.
func (p *Pairs) Making() (making bool) {
	p.making.Range(func(_, _ any) bool {
		making = true
		return false
	})
	return making
}

// Forget has the backend drop its copies of a key's private halves. It is for keys that
// are not to sign any more.
func (p *Pairs) Forget(keyId string) {
	for _, v := range p.cfg.Records.Now().VersionsOf(keyId) {
		p.cfg.Backend.Forget(v.Key)
	}
}

// CheckRecord returns an error that is kms.ErrKeyUnavailable if a version's record does not
// hold the key pair that was made for it. A record with another version's pair would sign
// with another key.
func CheckRecord(version store.KeyVersion, key store.Key) error {
	if id, err := uuid.Parse(version.KeyVersionId); err != nil || !bytes.Equal(id[:], version.Key.ID) || version.Key.Spec != key.KeySpec {
		return fmt.Errorf("%w (the record of version %s holds the key pair %x of KeySpec %s)",
			kms.ErrKeyUnavailable, version.KeyVersionId, version.Key.ID, version.Key.Spec)
	}
	return nil
}
