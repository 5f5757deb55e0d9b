package keypair_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/journal"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

var (
	quiet = slog.New(slog.NewTextHandler(io.Discard, nil))
	day   = time.Date(2026, 11, 21, 20, 56, 37, 0, time.UTC)
)

// A backend is a Fake with hooks that run after Generate and Destroy. A nil hook does nothing.
type backend struct {
	*hsmtest.Fake
	generated func() error // called once the pair is made; Generate returns its error
	destroyed func()       // called once the pair is destroyed
}

func (b *backend) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	key, err := b.Fake.Generate(ctx, spec, id)
	if err == nil && b.generated != nil {
		err = b.generated()
	}
	if err != nil {
		return hsm.Key{}, err
	}
	return key, nil
}

func (b *backend) Destroy(ctx context.Context, k hsm.Key) error {
	err := b.Fake.Destroy(ctx, k)
	if err == nil && b.destroyed != nil {
		b.destroyed()
	}
	return err
}

// A witness is a Fake whose keys are sealed, for Route.Sealed. It records the keys that it is to
// destroy.
type witness struct {
	hsmtest.Fake
	destroyed []hsm.Key
}

func (w *witness) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	key, err := w.Fake.Generate(ctx, spec, id)
	if err != nil {
		return hsm.Key{}, err
	}
	key.Sealed = slices.Concat([]byte("sealed "), id)
	return key, nil
}

func (w *witness) Destroy(ctx context.Context, k hsm.Key) error {
	w.destroyed = append(w.destroyed, k)
	return w.Fake.Destroy(ctx, k)
}

// A clock shows the same time until it is set.
type clock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// A bench holds the key pairs of an instance on a Fake. Records and audit log are real.
type bench struct {
	*keypair.Pairs
	t       testing.TB
	dir     string
	db      *store.Store
	log     *audit.Log
	journal *journal.Journal
	backend *backend
	clock   clock

	clockProblem string // why the clock cannot be believed
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), backend: &backend{Fake: new(hsmtest.Fake)}, clock: clock{now: day}}
	var err error
	if b.db, err = storetest.Open(filepath.Join(b.dir, "db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close() })
	if b.log, err = audit.Open(audit.Config{Path: b.logPath(), AppendTimeout: time.Minute, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.log.Close() })
	if b.journal, err = journal.Open(b.db, b.log, quiet); err != nil {
		t.Fatal(err)
	}
	b.Pairs = keypair.New(b.config())
	return b
}

func (b *bench) logPath() string { return filepath.Join(b.dir, "audit.log") }

func (b *bench) update(f func(tx *store.Tx) error) {
	b.t.Helper()
	if err := b.db.Update(f); err != nil {
		b.t.Fatal(err)
	}
}

// lines returns the audit lines about requests.
func (b *bench) lines() (entries []audit.Entry) {
	b.t.Helper()
	content, err := os.ReadFile(b.logPath())
	if err != nil {
		b.t.Fatal(err)
	}
	err = audit.Read(bytes.NewReader(content), func(l audit.Line) error {
		if l.Entry != nil {
			entries = append(entries, *l.Entry)
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return entries
}

// A recorder records as a request does. The hooks record and write replace the methods of their
// names if they are not nil.
type recorder struct {
	db            *store.Store
	record, write func(f func(tx *store.Tx) error) error
}

func (r recorder) Record(f func(tx *store.Tx) error) error {
	if r.record != nil {
		return r.record(f)
	}
	return r.db.Update(f)
}

func (r recorder) Write(f func(tx *store.Tx) error) error {
	if r.write != nil {
		return r.write(f)
	}
	return r.db.Update(f)
}

// newOrphan makes a key pair that belongs to no version, and its record.
func (b *bench) newOrphan() {
	b.t.Helper()
	b.backend.FailDestroy(hsm.ErrUnavailable)
	defer b.backend.FailDestroy(nil)
	fail := func(func(tx *store.Tx) error) error { return errCut }
	if _, err := b.create(key(hsm.EC_P256), recorder{write: fail}); !errors.Is(err, errCut) {
		b.t.Fatalf("Create: %v, want %v", err, errCut)
	}
}

// failLog makes the audit log fail.
func (b *bench) failLog() {
	b.t.Helper()
	if err := os.Remove(b.logPath()); err != nil {
		b.t.Fatal(err)
	}
	if err := b.log.Append(audit.Entry{}); err == nil {
		b.t.Fatal("Append returned no error without a log file")
	}
}

// key returns the record of a new key.
func key(spec hsm.KeySpec) store.Key {
	return store.Key{KeyId: uuid.NewString(), KeySpec: spec, KeyState: store.Enabled, CreationDate: day}
}

// create makes a version of a key with a recorder, and writes the key's record in the same
// transaction.
func (b *bench) create(k store.Key, r recorder) (store.KeyVersion, error) {
	r.db = b.db
	v := store.KeyVersion{KeyId: k.KeyId, KeyVersionId: uuid.NewString(), CreationDate: b.clock.Now()}
	return b.Create(b.t.Context(), v, k.KeySpec, r, func(tx *store.Tx) error { return tx.Keys().Put(k) })
}

// newKey makes a key with one version. If change is not nil, it changes the key's record first.
func (b *bench) newKey(change func(k *store.Key)) (store.Key, store.KeyVersion) {
	b.t.Helper()
	k := key(hsm.EC_P256)
	if change != nil {
		change(&k)
	}
	v, err := b.create(k, recorder{})
	if err != nil {
		b.t.Fatal(err)
	}
	return k, v
}

// pendingDeletion returns a change that schedules a key's deletion, for newKey.
func pendingDeletion(date time.Time) func(k *store.Key) {
	return func(k *store.Key) { k.KeyState, k.DeleteDate = store.PendingDeletion, date }
}

func (b *bench) versions() []store.KeyVersion {
	return slices.Collect(b.db.Now().Versions().All())
}

// checkAgreement checks that every recorded version signs, that the given number of orphans is
// recorded, and that the token has only the pairs of the versions and orphanPairs others.
func (b *bench) checkAgreement(orphans, orphanPairs int) {
	b.t.Helper()
	versions := b.versions()
	for _, v := range versions {
		if err := hsm.SelfTest(b.t.Context(), b.backend, v.Key); err != nil {
			b.t.Errorf("recorded version %q does not sign: %v", v.KeyVersionId, err)
		}
	}
	if n := b.db.Now().Orphans().Len(); n != orphans {
		b.t.Errorf("recorded orphans: %d, want %d", n, orphans)
	}
	if n, want := b.backend.Len(), len(versions)+orphanPairs; n != want {
		b.t.Errorf("pairs in the token: %d, want %d for %d versions", n, want, len(versions))
	}
}

// config returns a configuration for Pairs with the bench's parts.
func (b *bench) config() keypair.Config {
	return keypair.Config{
		Records: b.db, Backend: b.backend, Journal: b.journal, Audit: b.log, Now: b.clock.Now, Logger: quiet,
		ReadClock: func() (time.Time, string) { return b.clock.Now(), b.clockProblem },
	}
}
