package keypair_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

var errCut = errors.New("cut off")

// TestCreate makes a pair of every KeySpec for a caller who has gone away already: what
// is recorded signs, and nothing else is left.
func TestCreate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, spec := range hsm.KeySpecs() {
		if spec == hsm.RSA_3072 || spec == hsm.RSA_4096 {
			continue // the same, and slower
		}
		k := key(spec)
		asked := store.KeyVersion{KeyId: k.KeyId, KeyVersionId: uuid.NewString(), CreationDate: day}
		made, err := b.Create(gone, asked, spec, recorder{db: b.db}, func(tx *store.Tx) error { return tx.Keys().Put(k) })
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		recorded, err := b.db.Now().Version(k.KeyId, asked.KeyVersionId)
		if err != nil || string(recorded.Key.Public) != string(made.Key.Public) || !b.db.Now().Keys().Has(k.KeyId) {
			t.Errorf("%s: recorded %+v, made %+v, %v", spec, recorded, made, err)
		}
		if err := keypair.CheckRecord(recorded, k); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
	b.checkAgreement(0, 0)
	if b.Making() {
		t.Error("a pair is still being made")
	}
}

// TestCreateCutOff cuts a creation off at each of its steps. What is left at once is a
// version that signs, or nothing, or an orphan with a record; and after the next
// CarryOutDeletions no orphan.
func TestCreateCutOff(t *testing.T) {
	t.Parallel()
	type steps struct {
		b    *bench
		spec hsm.KeySpec
		r    recorder
		also func(tx *store.Tx, call int) error // counts its calls from 1
	}
	fails := func(func(tx *store.Tx) error) error { return errCut }
	for name, tc := range map[string]struct {
		cut                           func(s *steps)
		want                          error
		versions, orphans, orphanPair int
	}{
		"also refuses at first": {want: errCut,
			cut: func(s *steps) { s.also = func(*store.Tx, int) error { return errCut } }},
		"also refuses at last": {want: errCut,
			cut: func(s *steps) {
				s.also = func(_ *store.Tx, call int) error {
					if call > 1 {
						return errCut
					}
					return nil
				}
			}},
		"the orphan is not recorded": {want: errCut,
			cut: func(s *steps) { s.r.record = fails }},
		"no pair is made": {want: errCut,
			cut: func(s *steps) { s.b.backend.FailGenerate(errCut) }},
		"a KeySpec that the token lacks": {want: kms.ErrUnsupportedOperation,
			cut: func(s *steps) { s.b.backend.FailGenerate(hsm.ErrKeySpec) }},
		"the pair is made, and the token does not say so": {want: hsm.ErrUnavailable,
			cut: func(s *steps) { s.b.backend.generated = func() error { return hsm.ErrUnavailable } }},
		"the same, and the token is gone": {want: hsm.ErrUnavailable, orphans: 1, orphanPair: 1,
			cut: func(s *steps) {
				s.b.backend.generated = func() error {
					s.b.backend.FailDestroy(hsm.ErrUnavailable)
					return hsm.ErrUnavailable
				}
			}},
		"the version is not recorded": {want: errCut,
			cut: func(s *steps) { s.r.write = fails }},
		"the same, and the pair is not destroyed": {want: errCut, orphans: 1, orphanPair: 1,
			cut: func(s *steps) {
				s.b.backend.FailDestroy(hsm.ErrUnavailable)
				s.r.write = fails
			}},
		"the version may be recorded, and is": {want: store.ErrUncertain, versions: 1,
			cut: func(s *steps) {
				s.r.write = func(f func(tx *store.Tx) error) error { return errors.Join(s.b.db.Update(f), store.ErrUncertain) }
			}},
		"the version may be recorded, and is not": {want: store.ErrUncertain, orphans: 1, orphanPair: 1,
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
					if sealed.Len() != 0 || len(sealed.destroyed) != 1 || sealed.destroyed[0].Sealed == nil {
						s.b.t.Errorf("%d sealed pairs, want 0; destroyed %+v, want one sealed key", sealed.Len(), sealed.destroyed)
					}
				})
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			s := &steps{b: b, spec: hsm.EC_P256, r: recorder{db: b.db}, also: func(*store.Tx, int) error { return nil }}
			tc.cut(s)
			k, calls := key(s.spec), 0
			v := store.KeyVersion{KeyId: k.KeyId, KeyVersionId: uuid.NewString(), CreationDate: day}
			_, err := b.Create(t.Context(), v, k.KeySpec, s.r, func(tx *store.Tx) error {
				calls++
				return errors.Join(tx.Keys().Put(k), s.also(tx, calls))
			})
			if !errors.Is(err, tc.want) {
				t.Errorf("Create: %v, want %v", err, tc.want)
			}
			if n := len(b.versions()); n != tc.versions || b.db.Now().Keys().Len() != tc.versions {
				t.Errorf("%d versions, %d keys, want %d", n, b.db.Now().Keys().Len(), tc.versions)
			}
			b.checkAgreement(tc.orphans, tc.orphanPair)
			if b.Making() {
				t.Error("a pair is still being made")
			}
			b.backend.FailDestroy(nil)
			b.CarryOutDeletions(t.Context())
			b.checkAgreement(0, 0)
		})
	}
}

// TestCreateRefusedMakesNothing: what also refuses, and what cannot be recorded, never
// reaches the token.
func TestCreateRefusedMakesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.backend.generated = func() error {
		t.Error("the token made a pair")
		return nil
	}
	_, err := b.create(key(hsm.EC_P256), recorder{record: func(f func(tx *store.Tx) error) error { return errCut }})
	if !errors.Is(err, errCut) {
		t.Error(err)
	}
	v := store.KeyVersion{KeyId: uuid.NewString(), KeyVersionId: uuid.NewString()}
	_, err = b.Create(t.Context(), v, hsm.EC_P256, recorder{db: b.db}, func(*store.Tx) error { return errCut })
	if !errors.Is(err, errCut) {
		t.Error(err)
	}
	v.KeyVersionId = "no UUID"
	if _, err := b.Create(t.Context(), v, hsm.EC_P256, recorder{db: b.db}, func(*store.Tx) error { return nil }); err == nil {
		t.Error("a version whose id is no UUID was made")
	}
}

// TestOrphanOfAKill: the process ends while the version is being recorded. Its successor
// destroys the pair.
func TestOrphanOfAKill(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k, v := b.newKey(nil)
	func() {
		defer func() { _ = recover() }()
		_, _ = b.create(key(hsm.EC_P256), recorder{write: func(func(tx *store.Tx) error) error { panic("killed") }})
	}()
	b.checkAgreement(1, 1)
	orphan, err := b.db.Now().Orphans().Get(b.db.Now().Orphans().Page(0, 1)[0].KeyVersionId)
	if err != nil || orphan.Since != day || orphan.Key.Spec != hsm.EC_P256 || len(orphan.Key.ID) != 16 {
		t.Errorf("the orphan is %+v, %v", orphan, err)
	}
	successor := keypair.New(b.config())
	b.backend.FailDestroy(hsm.ErrUnavailable)
	successor.CarryOutDeletions(t.Context())
	b.checkAgreement(1, 1)
	b.backend.FailDestroy(nil)
	successor.CarryOutDeletions(t.Context())
	b.checkAgreement(0, 0)
	if _, err := b.db.Now().Version(k.KeyId, v.KeyVersionId); err != nil {
		t.Errorf("the pair of a version: %v", err)
	}
}

// TestMakingIsNotDestroyed: while a pair is being made it is recorded as an orphan, and
// is left alone all the same.
func TestMakingIsNotDestroyed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.backend.generated = func() error {
		if b.db.Now().Orphans().Len() != 1 || !b.Making() {
			t.Errorf("%d orphans are recorded, making: %v", b.db.Now().Orphans().Len(), b.Making())
		}
		b.CarryOutDeletions(t.Context())
		return nil
	}
	b.newKey(nil)
	b.checkAgreement(0, 0)
}

// TestForget tells the backend of every version of one key, and of no other's.
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
		t.Fatalf("%d keys are forgotten", len(forgotten))
	}
	for _, f := range forgotten {
		id, err := uuid.FromBytes(f.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.db.Now().Version(k.KeyId, id.String()); err != nil {
			t.Error(err)
		}
	}
}

// TestCheckRecord refuses a record that holds another version's pair, or another
// KeySpec's.
func TestCheckRecord(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k, v := b.newKey(nil)
	_, other := b.newKey(nil)
	for name, change := range map[string]func(k *store.Key, v *store.KeyVersion){
		"another's pair":  func(_ *store.Key, v *store.KeyVersion) { v.Key = other.Key },
		"another KeySpec": func(k *store.Key, _ *store.KeyVersion) { k.KeySpec = hsm.EC_P256K },
		"no UUID":         func(_ *store.Key, v *store.KeyVersion) { v.KeyVersionId = "v" },
		"no pair":         func(_ *store.Key, v *store.KeyVersion) { v.Key = hsm.Key{} },
	} {
		key, version := k, v
		change(&key, &version)
		if err := keypair.CheckRecord(version, key); !errors.Is(err, kms.ErrKeyUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
