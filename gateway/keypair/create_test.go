package keypair_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

var errCut = errors.New("cut off")

// TestCreate makes a pair of every KeySpec for a caller whose context has ended. The recorded
// versions must sign, and no other pair may exist.
func TestCreate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, spec := range hsm.KeySpecs() {
		if spec == hsm.RSA_3072 || spec == hsm.RSA_4096 {
			continue // like RSA_2048, but slower
		}
		k := key(spec)
		v := store.KeyVersion{KeyId: k.KeyId, KeyVersionId: uuid.NewString(), CreationDate: day}
		putKey := func(tx *store.Tx) error { return tx.Keys().Put(k) }
		made, err := b.Create(gone, v, spec, recorder{db: b.db}, putKey)
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		recorded, err := b.db.Now().Version(k.KeyId, v.KeyVersionId)
		if err != nil || string(recorded.Key.Public) != string(made.Key.Public) {
			t.Errorf("%s: recorded %+v, %v, want %+v", spec, recorded, err, made)
		}
		if !b.db.Now().Keys().Has(k.KeyId) {
			t.Errorf("%s: the key was not recorded", spec)
		}
		if err := keypair.CheckRecord(recorded, k, hsm.Key{}); err != nil {
			t.Errorf("CheckRecord of a new %s version: %v, want no error", spec, err)
		}
	}
	b.checkAgreement(0, 0)
	if b.Making() {
		t.Error("Making after Create: true, want false")
	}
}

// TestCreateWaits checks how long Create waits for a token that does not answer.
func TestCreateWaits(t *testing.T) {
	for _, tc := range []struct {
		spec     hsm.KeySpec
		deadline time.Duration // of the caller; 0 means none
		leaves   time.Duration // when the caller leaves; 0 means never
		want     time.Duration
	}{
		{hsm.EC_P256, 0, 0, 10 * time.Second},
		{hsm.RSA_4096, 0, 0, 25 * time.Second},
		{hsm.RSA_4096, 0, time.Second, 25 * time.Second},
		{hsm.RSA_4096, 10 * time.Minute, 0, 10 * time.Minute},
		{hsm.RSA_4096, 10 * time.Minute, time.Second, 25 * time.Second},
		{hsm.RSA_4096, 10 * time.Minute, time.Minute, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.backend.Fail(hsmtest.ErrHang)
			ctx, cancel := context.WithCancel(t.Context())
			if tc.deadline > 0 {
				ctx, cancel = context.WithTimeout(ctx, tc.deadline)
			}
			defer cancel()
			if tc.leaves > 0 {
				time.AfterFunc(tc.leaves, cancel)
			}
			k := key(tc.spec)
			v := store.KeyVersion{KeyId: k.KeyId, KeyVersionId: uuid.NewString(), CreationDate: day}
			began := time.Now()
			_, err := b.Create(ctx, v, tc.spec, recorder{db: b.db}, func(tx *store.Tx) error { return tx.Keys().Put(k) })
			// Then it tries for 3 s to destroy what the token may have made.
			if took := time.Since(began); err == nil || took < tc.want || took > tc.want+5*time.Second {
				t.Errorf("%+v: returned %v after %v", tc, err, took)
			}
		})
	}
}

// TestCreateTwice creates a version with an id that exists. The pair with that id stays, with its record.
func TestCreateTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, spec := range []hsm.KeySpec{hsm.EC_P256, hsm.EC_SM2} {
		k := key(spec)
		v := store.KeyVersion{KeyId: k.KeyId, KeyVersionId: uuid.NewString(), CreationDate: day}
		putKey := func(tx *store.Tx) error { return tx.Keys().Put(k) }
		made, err := b.Create(t.Context(), v, spec, recorder{db: b.db}, putKey)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := b.Create(t.Context(), v, spec, recorder{db: b.db}, putKey); err == nil {
			t.Errorf("%s: created %+v a second time", spec, again)
		}
		recorded, err := b.db.Now().Version(k.KeyId, v.KeyVersionId)
		if err != nil || string(recorded.Key.Public) != string(made.Key.Public) {
			t.Errorf("%s: recorded %+v, %v, want %+v", spec, recorded, err, made)
		}
		if err := hsm.SelfTest(t.Context(), b.backend, made.Key); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
	b.checkAgreement(0, 0)
}

// TestCreateCutOff cuts a creation off at each of its steps. It must leave a version that signs, or
// nothing, or a recorded orphan. After the next CarryOutDeletions there must be no orphan.
func TestCreateCutOff(t *testing.T) {
	t.Parallel()
	type steps struct {
		b      *bench
		spec   hsm.KeySpec
		r      recorder
		update func(tx *store.Tx, call int) error // calls are numbered from 1
	}
	fails := func(func(tx *store.Tx) error) error { return errCut }
	for name, tc := range map[string]struct {
		cut                            func(s *steps)
		want                           error
		versions, orphans, orphanPairs int
	}{
		"update fails the first time": {want: errCut,
			cut: func(s *steps) { s.update = func(*store.Tx, int) error { return errCut } }},
		"update fails the second time": {want: errCut,
			cut: func(s *steps) {
				s.update = func(_ *store.Tx, call int) error {
					if call > 1 {
						return errCut
					}
					return nil
				}
			}},
		"the orphan is not recorded": {want: errCut,
			cut: func(s *steps) { s.r.record = fails }},
		"the token makes no pair": {want: errCut,
			cut: func(s *steps) { s.b.backend.FailGenerate(errCut) }},
		"the token does not offer the KeySpec": {want: kms.ErrUnsupportedOperation,
			cut: func(s *steps) { s.b.backend.FailGenerate(hsm.ErrKeySpec) }},
		"the token makes the pair and fails": {want: hsm.ErrUnavailable,
			cut: func(s *steps) { s.b.backend.generated = func() error { return hsm.ErrUnavailable } }},
		"the token makes the pair, fails and stays away": {want: hsm.ErrUnavailable, orphans: 1, orphanPairs: 1,
			cut: func(s *steps) {
				s.b.backend.generated = func() error {
					s.b.backend.FailDestroy(hsm.ErrUnavailable)
					return hsm.ErrUnavailable
				}
			}},
		"the version is not recorded": {want: errCut,
			cut: func(s *steps) { s.r.write = fails }},
		"the version is not recorded, the pair not destroyed": {want: errCut, orphans: 1, orphanPairs: 1,
			cut: func(s *steps) {
				s.b.backend.FailDestroy(hsm.ErrUnavailable)
				s.r.write = fails
			}},
		"recording is uncertain, but succeeds": {want: store.ErrUncertain, versions: 1,
			cut: func(s *steps) {
				s.r.write = func(f func(tx *store.Tx) error) error {
					return errors.Join(s.b.db.Update(f), store.ErrUncertain)
				}
			}},
		"recording is uncertain, and fails": {want: store.ErrUncertain, orphans: 1, orphanPairs: 1,
			cut: func(s *steps) {
				s.r.write = func(func(tx *store.Tx) error) error { return store.ErrUncertain }
			}},
		"the version of a sealed key is not recorded": {want: errCut,
			cut: func(s *steps) {
				sealed := new(witness)
				cfg := s.b.config()
				cfg.Backend = hsm.Route{Token: s.b.backend, Sealed: sealed, Logger: quiet}
				s.b.Pairs, s.spec, s.r.write = keypair.New(cfg), hsm.EC_SM2, fails
				s.b.t.Cleanup(func() {
					if n := sealed.Len(); n != 0 {
						s.b.t.Errorf("sealed pairs: %d, want 0", n)
					}
					if d := sealed.destroyed; len(d) != 1 || d[0].Sealed == nil {
						s.b.t.Errorf("destroyed in the sealed backend: %+v, want one key with Sealed", d)
					}
				})
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			s := &steps{b: b, spec: hsm.EC_P256, r: recorder{db: b.db}}
			s.update = func(*store.Tx, int) error { return nil }
			tc.cut(s)
			k, calls := key(s.spec), 0
			v := store.KeyVersion{KeyId: k.KeyId, KeyVersionId: uuid.NewString(), CreationDate: day}
			_, err := b.Create(t.Context(), v, k.KeySpec, s.r, func(tx *store.Tx) error {
				calls++
				return errors.Join(tx.Keys().Put(k), s.update(tx, calls))
			})
			if !errors.Is(err, tc.want) {
				t.Errorf("Create: %v, want %v", err, tc.want)
			}
			if n := len(b.versions()); n != tc.versions || b.db.Now().Keys().Len() != tc.versions {
				t.Errorf("%d versions and %d keys, want %d of each", n, b.db.Now().Keys().Len(), tc.versions)
			}
			b.checkAgreement(tc.orphans, tc.orphanPairs)
			if b.Making() {
				t.Error("Making after Create: true, want false")
			}
			b.backend.FailDestroy(nil)
			b.CarryOutDeletions(t.Context())
			b.checkAgreement(0, 0)
		})
	}
}

// TestCreateRefusedMakesNothing checks that a version never reaches the token if update refuses it,
// if it cannot be recorded or if its id is invalid.
func TestCreateRefusedMakesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.backend.generated = func() error {
		t.Error("the token made a pair, want none")
		return nil
	}
	_, err := b.create(key(hsm.EC_P256), recorder{record: func(f func(tx *store.Tx) error) error { return errCut }})
	if !errors.Is(err, errCut) {
		t.Errorf("Create with a recorder that fails: %v, want %v", err, errCut)
	}
	v := store.KeyVersion{KeyId: uuid.NewString(), KeyVersionId: uuid.NewString()}
	_, err = b.Create(t.Context(), v, hsm.EC_P256, recorder{db: b.db}, func(*store.Tx) error { return errCut })
	if !errors.Is(err, errCut) {
		t.Errorf("Create with an update that fails: %v, want %v", err, errCut)
	}
	v.KeyVersionId = "no UUID"
	_, err = b.Create(t.Context(), v, hsm.EC_P256, recorder{db: b.db}, func(*store.Tx) error { return nil })
	if err == nil {
		t.Errorf("Create with the KeyVersionId %q: no error, want one", v.KeyVersionId)
	}
}

// TestOrphanOfAKill simulates that the process is killed while it records a version. The next
// process destroys the pair.
func TestOrphanOfAKill(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k, v := b.newKey(nil)
	func() {
		defer func() { _ = recover() }()
		die := func(func(tx *store.Tx) error) error { panic("killed") }
		_, _ = b.create(key(hsm.EC_P256), recorder{write: die})
	}()
	b.checkAgreement(1, 1)
	orphan, err := b.db.Now().Orphans().Get(b.db.Now().Orphans().Page(0, 1)[0].KeyVersionId)
	if err != nil || orphan.Since != day || orphan.Key.Spec != hsm.EC_P256 || len(orphan.Key.ID) != 16 {
		t.Errorf("orphan: %+v, %v, want an EC_P256 pair of %v with an ID of 16 bytes", orphan, err, day)
	}
	successor := keypair.New(b.config())
	b.backend.FailDestroy(hsm.ErrUnavailable)
	successor.CarryOutDeletions(t.Context())
	b.checkAgreement(1, 1)
	b.backend.FailDestroy(nil)
	successor.CarryOutDeletions(t.Context())
	b.checkAgreement(0, 0)
	if _, err := b.db.Now().Version(k.KeyId, v.KeyVersionId); err != nil {
		t.Errorf("a recorded version: %v, want no error", err)
	}
}

// TestMakingIsNotDestroyed checks that CarryOutDeletions does not destroy a pair that is being
// made, although the pair is recorded as an orphan.
func TestMakingIsNotDestroyed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.backend.generated = func() error {
		if b.db.Now().Orphans().Len() != 1 || !b.Making() {
			t.Errorf("%d recorded orphans, Making %v, want 1 and true", b.db.Now().Orphans().Len(), b.Making())
		}
		b.CarryOutDeletions(t.Context())
		return nil
	}
	b.newKey(nil)
	b.checkAgreement(0, 0)
}

// TestForget checks that Forget reaches every version of the key, and no version of another key.
func TestForget(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k, _ := b.newKey(nil)
	if _, err := b.create(k, recorder{}); err != nil {
		t.Fatal(err)
	}
	b.newKey(nil)
	b.Forget(k.KeyId)
	forgotten := b.backend.Forgotten()
	if len(forgotten) != 2 {
		t.Fatalf("forgotten versions: %d, want 2", len(forgotten))
	}
	for _, f := range forgotten {
		id, err := uuid.FromBytes(f.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.db.Now().Version(k.KeyId, id.String()); err != nil {
			t.Errorf("Forget reached %s, which is not a version of the key: %v", id, err)
		}
	}
}

// TestCheckRecord checks that a record is refused if it holds the pair of another version or of
// another KeySpec, or the audit log's key.
func TestCheckRecord(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k, v := b.newKey(nil)
	_, other := b.newKey(nil)
	auditKey := hsm.Key{ID: []byte("audit key 123456"), Public: other.Key.Public}
	if err := keypair.CheckRecord(v, k, auditKey); err != nil {
		t.Errorf("a good record: %v, want no error", err)
	}
	if err := keypair.CheckRecord(v, k, hsm.Key{ID: v.Key.ID}); !errors.Is(err, kms.ErrKeyUnavailable) {
		t.Errorf("the id of the audit log's key: %v, want %v", err, kms.ErrKeyUnavailable)
	}
	for name, change := range map[string]func(k *store.Key, v *store.KeyVersion){
		"another's pair":             func(_ *store.Key, v *store.KeyVersion) { v.Key = other.Key },
		"another KeySpec":            func(k *store.Key, _ *store.KeyVersion) { k.KeySpec = hsm.EC_P256K },
		"no UUID":                    func(_ *store.Key, v *store.KeyVersion) { v.KeyVersionId = "v" },
		"the audit log's public key": func(_ *store.Key, v *store.KeyVersion) { v.Key.Public = other.Key.Public },
		"no pair":                    func(_ *store.Key, v *store.KeyVersion) { v.Key = hsm.Key{} },
	} {
		key, version := k, v
		change(&key, &version)
		if err := keypair.CheckRecord(version, key, auditKey); !errors.Is(err, kms.ErrKeyUnavailable) {
			t.Errorf("%s: %v, want %v", name, err, kms.ErrKeyUnavailable)
		}
	}
}
