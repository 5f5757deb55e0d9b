package gateway_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// A listedObject is an object in the answer to ListTokenObjects.
type listedObject struct {
	Handle                               uint
	Class, KeySpec, Label, ObjectId, Use string
	KeyId, KeyVersionId, KeyState        string
	Aliases                              struct{ Alias []string }
	OtherPublicKey                       bool
}

type tokenList struct {
	Objects    struct{ Object []listedObject }
	Deviations struct {
		Deviation []struct {
			Use, KeyId, KeyVersionId, KeySpec string
			PrivateKeys                       int
		}
	}
}

func (b *bench) objects() (l tokenList) {
	b.t.Helper()
	b.local("ListTokenObjects", &l)
	return l
}

// parameters returns the parameters of DestroyTokenObject for an object.
func (o listedObject) parameters() []string {
	return []string{"Handle", fmt.Sprint(o.Handle), "Class", o.Class, "Label", o.Label, "ObjectId", o.ObjectId}
}

// stray plants an object without a record, and returns the parameters that destroy it.
func (b *bench) stray() []string {
	id := uuid.New()
	b.backend.Plant(hsm.Object{Class: hsm.ClassPrivateKey, Label: "kmsgate", ID: id[:], Ours: true, Purpose: hsm.PurposeKey})
	return b.objectOf(id.String())
}

// objectOf returns the parameters that would destroy the last listed object of a version.
func (b *bench) objectOf(keyVersionId string) []string {
	b.t.Helper()
	all := b.objects().Objects.Object
	for _, o := range slices.Backward(all) {
		if o.ObjectId == strings.ReplaceAll(keyVersionId, "-", "") {
			return o.parameters()
		}
	}
	b.t.Fatalf("version %s: got objects %+v, want one of it", keyVersionId, all)
	return nil
}

// record returns the record of a key's first version.
func (b *bench) record(keyId string) (v store.KeyVersion) {
	b.t.Helper()
	v = b.db.Now().VersionsOf(keyId)[0]
	return v
}

// TestListTokenObjects lists one object of each use, and one with each possible fault.
func TestListTokenObjects(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lost, doubled, other := b.record(b.newKey()), b.record(b.newKey()), b.record(b.newKey())
	audit, making := uuid.New(), uuid.New()
	err := b.db.Update(func(tx *store.Tx) error {
		return errors.Join(tx.SetAuditKey(hsm.Key{ID: audit[:], Spec: hsm.EC_P256}),
			tx.Orphans().Put(store.Orphan{KeyVersionId: making.String(), Key: hsm.Key{ID: making[:], Spec: hsm.EC_P256}}))
	})
	if err != nil {
		t.Fatal(err)
	}
	stray := uuid.New()
	ours := func(class, purpose string, id []byte) hsm.Object {
		return hsm.Object{Class: class, Label: "kmsgate", ID: id, Ours: true, Purpose: purpose}
	}
	b.backend.Plant(
		ours(hsm.ClassPrivateKey, hsm.PurposeKey, audit[:]),
		ours(hsm.ClassPrivateKey, hsm.PurposeKey, making[:]),
		ours(hsm.ClassPrivateKey, hsm.PurposeCanary, []byte("canary")),
		ours(hsm.ClassSecretKey, hsm.PurposeSealing, []byte("sealing")),
		ours(hsm.ClassPrivateKey, hsm.PurposeKey, stray[:]),
		ours(hsm.ClassPublicKey, hsm.PurposeKey, nil), // half an object
		hsm.Object{Class: hsm.ClassPrivateKey, Label: "theirs", ID: other.Key.ID},
		hsm.Object{Class: hsm.ClassPublicKey, Label: "kmsgate", ID: other.Key.ID, Public: lost.Key.Public, Ours: true, Purpose: hsm.PurposeKey},
		ours(hsm.ClassPrivateKey, hsm.PurposeKey, doubled.Key.ID),
	)
	b.backend.Lose(lost.Key)
	list := b.objects()
	count := make(map[string]int)
	for _, o := range list.Objects.Object {
		count[o.Use]++
		if o.OtherPublicKey {
			count["other public key of "+o.KeyVersionId]++
		}
		if o.KeyVersionId == b.key.KeyVersionId && (o.KeyId != b.key.KeyId || o.KeyState != "Enabled" ||
			fmt.Sprint(o.Aliases.Alias) != "[alias/test]" || o.ObjectId != hex.EncodeToString(b.record(b.key.KeyId).Key.ID)) {
			t.Errorf("object of the bench's key: got %+v, want its key, state, alias and id", o)
		}
	}
	want := map[string]int{"key version": 7 + 2, "audit key": 1, "sealing key": 1, "canary": 1, "being made or destroyed": 1, "stray": 2, "another's": 1,
		"other public key of " + other.KeyVersionId: 1}
	if fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("got uses %v, want %v", count, want)
	}
	deviations := make(map[string]int)
	for _, d := range list.Deviations.Deviation {
		deviations[d.Use+" "+d.KeyVersionId] = d.PrivateKeys
	}
	wantDeviations := map[string]int{"key version " + lost.KeyVersionId: 0, "key version " + doubled.KeyVersionId: 2}
	if fmt.Sprint(deviations) != fmt.Sprint(wantDeviations) {
		t.Errorf("got deviations %v, want %v", deviations, wantDeviations)
	}
}

// TestDestroyTokenObject checks that only objects are destroyed that have no record and that the
// gateway does not need, whatever the request says about them.
func TestDestroyTokenObject(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	making := uuid.New()
	err := b.db.Update(func(tx *store.Tx) error {
		return tx.Orphans().Put(store.Orphan{KeyVersionId: making.String(), Key: hsm.Key{ID: making[:], Spec: hsm.EC_P256}})
	})
	if err != nil {
		t.Fatal(err)
	}
	b.backend.Plant(
		hsm.Object{Class: hsm.ClassPrivateKey, Label: "kmsgate", ID: making[:], Ours: true, Purpose: hsm.PurposeKey},
		hsm.Object{Class: hsm.ClassPrivateKey, Label: "kmsgate-canary", ID: []byte{0xca}, Ours: true, Purpose: hsm.PurposeCanary},
		hsm.Object{Class: hsm.ClassSecretKey, Label: "kmsgate-sealing", ID: []byte{1}, Ours: true, Purpose: hsm.PurposeSealing},
		hsm.Object{Class: hsm.ClassOther, Label: "theirs"},
		hsm.Object{Class: hsm.ClassPublicKey, Label: "kmsgate", Ours: true, Purpose: hsm.PurposeKey},
		hsm.Object{Class: hsm.ClassPrivateKey, Label: "kmsgate", ID: []byte{2}, Ours: true, Purpose: hsm.PurposeKey},
	)
	for _, o := range b.objects().Objects.Object {
		err := b.server.Call(t.Context(), "DestroyTokenObject", params(o.parameters()...), nil)
		if refused := err != nil && strings.Contains(err.Error(), "DeleteConflict.TokenObject"); refused == (o.Use == "stray") {
			t.Errorf("%+v: got error %v, want DeleteConflict.TokenObject unless it is a stray", o, err)
		}
		o.ObjectId += "00" // another object with this handle
		err = b.server.Call(t.Context(), "DestroyTokenObject", params(o.parameters()...), nil)
		if err == nil || !strings.Contains(err.Error(), "EntityNotExist.TokenObject") {
			t.Errorf("%+v, with another id: got error %v, want EntityNotExist.TokenObject", o, err)
		}
	}
	left := b.objects().Objects.Object
	if len(left) != 4+2 || slices.ContainsFunc(left, func(o listedObject) bool { return o.Use == "stray" }) {
		t.Errorf("got remaining objects %+v, want 6 without strays", left)
	}
	if a := b.do(b.root, "AsymmetricSign", b.scenario("AsymmetricSign")...); a.Status != 200 {
		t.Errorf("AsymmetricSign afterwards: got %+v, want 200", a)
	}
}

// TestCreatedAndNotDeleted removes the record of a key, as a database that is older than the key does. The key
// pair must not be destroyed. After the deletion of a key, a pair that the token still has is a stray.
func TestCreatedAndNotDeleted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	destroy := func(versionId string) error {
		t.Helper()
		id := uuid.MustParse(versionId)
		b.backend.Plant(hsm.Object{Class: hsm.ClassPrivateKey, Label: "kmsgate", ID: id[:], Ours: true, Purpose: hsm.PurposeKey})
		for _, o := range b.objects().Objects.Object {
			if o.ObjectId == hex.EncodeToString(id[:]) {
				return b.server.Call(t.Context(), "DestroyTokenObject", params(o.parameters()...), nil)
			}
		}
		return errors.New("the object is not listed")
	}
	lost := b.newKey()
	lostVersion := b.versions(lost)[0]
	if err := b.db.Update(func(tx *store.Tx) error {
		return errors.Join(tx.Keys().Delete(lost), tx.Orphans().Delete(lostVersion))
	}); err != nil {
		t.Fatal(err)
	}
	if err := destroy(lostVersion); err == nil || !strings.Contains(err.Error(), "was not deleted") {
		t.Errorf("a pair of a key that was not deleted: got %v, want a refusal", err)
	}
	deleted := b.newKey()
	deletedVersion := b.versions(deleted)[0]
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", deleted, "PendingWindowInDays", "7"), 200, "")
	b.clock.move(8 * 24 * time.Hour)
	b.server.CarryOutDeletions(t.Context())
	if err := destroy(deletedVersion); err != nil {
		t.Errorf("a pair that the deletion left: got %v, want none", err)
	}
}

// A pausedBackend pauses before it creates a key pair, if paused is set.
type pausedBackend struct {
	*hsmtest.Fake
	paused  atomic.Bool
	entered chan struct{}
	resume  chan struct{}
}

func (p *pausedBackend) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	if p.paused.Load() {
		p.entered <- struct{}{}
		<-p.resume
	}
	return p.Fake.Generate(ctx, spec, id)
}

// TestUnfinished checks that an object without an id is not destroyed while a key pair is being
// created, because it may become one half of the pair.
func TestUnfinished(t *testing.T) {
	t.Parallel()
	paused := &pausedBackend{entered: make(chan struct{}), resume: make(chan struct{})}
	b := newBench(t, func(c *gateway.Config) {
		paused.Fake = c.Backend.(*hsmtest.Fake)
		c.Backend = paused
	})
	b.backend.Plant(hsm.Object{Class: hsm.ClassOther, Ours: true, Purpose: hsm.PurposeNone})
	paused.paused.Store(true)
	made := make(chan error, 1)
	go func() { made <- b.server.Call(t.Context(), "CreateKey", params("KeySpec", "EC_P256"), nil) }()
	<-paused.entered
	half := b.objects().Objects.Object[0]
	if half.Use != "being made or destroyed" {
		t.Errorf("while a key pair is being created: got use %q, want being made or destroyed", half.Use)
	}
	err := b.server.Call(t.Context(), "DestroyTokenObject", params(half.parameters()...), nil)
	if err == nil || !strings.Contains(err.Error(), "DeleteConflict.TokenObject") {
		t.Errorf("while a key pair is being created: got error %v, want DeleteConflict.TokenObject", err)
	}
	paused.resume <- struct{}{}
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	if use := b.objects().Objects.Object[0].Use; use != "stray" {
		t.Errorf("after the key pair was created: got use %q, want stray", use)
	}
	b.local("DestroyTokenObject", nil, half.parameters()...)
}

// TestTestKeyVersion checks that TestKeyVersion returns how fast a version signs, in every state of
// its key, or why it does not sign.
func TestTestKeyVersion(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, spec := range hsm.KeySpecs() {
		keyId := b.newKey("KeySpec", string(spec))
		for _, state := range []string{store.Enabled, store.Disabled, store.PendingDeletion} {
			b.setState(keyId, state)
			var tested struct {
				KeySpec                                              string
				Signatures                                           int
				MinMilliseconds, MedianMilliseconds, MaxMilliseconds float64
			}
			b.local("TestKeyVersion", &tested, "KeyId", keyId, "KeyVersionId", b.versions(keyId)[0], "Count", "3")
			if tested.KeySpec != string(spec) || tested.Signatures != 3 || tested.MinMilliseconds <= 0 ||
				tested.MedianMilliseconds < tested.MinMilliseconds || tested.MaxMilliseconds < tested.MedianMilliseconds {
				t.Errorf("%s, %s: got %+v, want three signatures with their times", spec, state, tested)
			}
			forgotten := slices.ContainsFunc(b.backend.Forgotten(), func(k hsm.Key) bool { return slices.Equal(k.ID, b.record(keyId).Key.ID) })
			if forgotten != (state != store.Enabled) {
				t.Errorf("%s, %s: session copies forgotten: got %v, want %v",
					spec, state, forgotten, state != store.Enabled)
			}
		}
	}
	lost, other, mine := b.record(b.newKey()), b.record(b.newKey()), b.record(b.key.KeyId)
	b.backend.Lose(lost.Key)
	b.backend.Swap(other.Key, mine.Key)
	for want, v := range map[string]store.KeyVersion{"no such private key": lost, "does not match the recorded public key": other} {
		err := b.server.Call(t.Context(), "TestKeyVersion", params("KeyId", v.KeyId, "KeyVersionId", v.KeyVersionId), nil)
		if err == nil || !strings.Contains(err.Error(), "409 Rejected.Unavailable") || !strings.Contains(err.Error(), want) {
			t.Errorf("version %s: got error %v, want 409 Rejected.Unavailable with %q", v.KeyVersionId, err, want)
		}
	}
	b.backend.Fail(hsm.ErrUnavailable)
	err := b.server.Call(t.Context(), "TestKeyVersion", params("KeyId", mine.KeyId, "KeyVersionId", mine.KeyVersionId), nil)
	if err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("with the token unavailable: got error %v, want 503", err)
	}
}

// TestInspectNothing checks the answers if the gateway has no Inspector.
func TestInspectNothing(t *testing.T) {
	b := newBench(t, func(c *gateway.Config) { c.Inspector = nil })
	for action, p := range map[string][]string{"DescribeToken": nil, "ListTokenObjects": nil, "DestroyTokenObject": {"Handle", "1"}} {
		err := b.server.Call(t.Context(), action, params(p...), nil)
		if err == nil || !strings.Contains(err.Error(), "UnsupportedOperation") {
			t.Errorf("%s: got error %v, want UnsupportedOperation", action, err)
		}
	}
}

// TestForgotten checks that the backend forgets a key that must no longer sign, and that dry runs
// and refused requests make it forget nothing.
func TestForgotten(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	keyId := b.newKey()
	b.want(b.do(b.root, "CreateKeyVersion", "KeyId", keyId), 200, "")
	forgotten := func() (ids []string) {
		for _, k := range b.backend.Forgotten() {
			ids = append(ids, uuid.UUID(k.ID).String())
		}
		slices.Sort(ids)
		return ids
	}
	b.do(b.root, "DisableKey", "KeyId", keyId, "DryRun", "true")
	b.do(b.root, "ScheduleKeyDeletion", "KeyId", keyId, "PendingWindowInDays", "1")
	b.do(b.newUser("nobody", document(allow("kms:ListKeys", "*"))), "DisableKey", "KeyId", keyId)
	if got := forgotten(); len(got) != 0 {
		t.Fatalf("after refused requests: got %v forgotten, want none", got)
	}
	want := slices.Sorted(slices.Values(b.versions(keyId)))
	b.want(b.do(b.root, "DisableKey", "KeyId", keyId), 200, "")
	if got := forgotten(); !slices.Equal(got, want) || len(got) != 2 {
		t.Errorf("disabled: got %v forgotten, want %v", got, want)
	}
	b.want(b.do(b.root, "ScheduleKeyDeletion", "KeyId", keyId, "PendingWindowInDays", "7"), 200, "")
	if got := forgotten(); len(got) != 4 {
		t.Errorf("scheduled for deletion: got %v forgotten, want %v twice", got, want)
	}
}
