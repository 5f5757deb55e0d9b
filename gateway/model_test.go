package gateway_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kmsgate/kmsgate/store"
)

// A model is a simple model of the gateway's records.
type model struct {
	keys    map[string]*modelKey
	aliases map[string]string // AliasName → KeyId
}

type modelKey struct {
	state     string
	deleteAt  time.Time
	protected bool
	versions  int
	tags      map[string]string
}

// A step is one request, with the answer and the change that the model expects.
type step struct {
	action string
	params []string
	want   string       // the code of the answer; empty for success
	apply  func(answer) // changes the model if the request succeeds; nil means no change
}

// TestModel sends random sequences of operations. It compares every answer, and the records at the
// end, with the model.
func TestModel(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel() // the test waits for the disk
			b := newBench(t)
			m := &model{
				keys: map[string]*modelKey{
					b.key.KeyId: {state: store.Enabled, versions: 1, tags: map[string]string{}},
				},
				aliases: map[string]string{"alias/test": b.key.KeyId},
			}
			random := rand.New(rand.NewPCG(seed, 0))
			for n := range 300 {
				if random.IntN(20) == 0 {
					b.clock.move(3 * 24 * time.Hour)
					b.server.CarryOutDeletions(t.Context())
					m.deleteDue(b.clock.Now())
				}
				s := m.step(random, b.clock.Now())
				a := b.do(b.root, s.action, s.params...)
				if a.Code != s.want {
					t.Fatalf("step %d: %s %v: %q (%s), want %q", n, s.action, s.params, a.Code, a.Message, s.want)
				}
				if a.Code == "" && s.apply != nil {
					s.apply(a)
				}
			}
			m.compare(b)
		})
	}
}

// deleteDue deletes the keys whose deletion is due.
func (m *model) deleteDue(now time.Time) {
	for keyId, k := range m.keys {
		if k.state == store.PendingDeletion && !k.deleteAt.After(now) {
			delete(m.keys, keyId)
			maps.DeleteFunc(m.aliases, func(_, target string) bool { return target == keyId })
		}
	}
}

// step returns a random request for a key, by its id or an alias. The key may not exist.
func (m *model) step(random *rand.Rand, now time.Time) step {
	ids := append(slices.Sorted(maps.Keys(m.keys)), "missing")
	keyId := ids[random.IntN(len(ids))]
	alias := fmt.Sprintf("alias/%d", random.IntN(4))
	name, k := keyId, m.keys[keyId]
	missing := "Forbidden.KeyNotFound"
	if random.IntN(3) == 0 {
		name = alias
		k = m.keys[m.aliases[alias]]
		missing = "Forbidden.AliasNotFound"
	}
	// onKey returns a step that requires the key. If the key exists, expect returns the expected
	// code and the change.
	onKey := func(action string, expect func() (string, func(answer)), pairs ...string) step {
		s := step{action: action, params: append([]string{"KeyId", name}, pairs...), want: missing}
		if k != nil {
			s.want, s.apply = expect()
		}
		return s
	}
	rejection := map[string]string{
		store.Enabled: "", store.Disabled: "Rejected.Disabled", store.PendingDeletion: "Rejected.PendingDeletion",
	}
	setState := func(state string) func() (string, func(answer)) {
		return func() (string, func(answer)) {
			if k.state == store.PendingDeletion {
				return "Rejected.StateModifiedFailed", nil
			}
			return "", func(answer) { k.state = state }
		}
	}
	switch random.IntN(12) {
	case 0:
		return step{action: "CreateKey", params: []string{"KeySpec", "EC_P256"}, apply: func(a answer) {
			keyId := a.Body["KeyMetadata"].(map[string]any)["KeyId"].(string)
			m.keys[keyId] = &modelKey{state: store.Enabled, versions: 1, tags: map[string]string{}}
		}}
	case 1:
		return onKey("EnableKey", setState(store.Enabled))
	case 2:
		return onKey("DisableKey", setState(store.Disabled))
	case 3:
		return onKey("ScheduleKeyDeletion", func() (string, func(answer)) {
			if k.state == store.PendingDeletion || k.protected {
				return "Rejected.StateModifiedFailed", nil
			}
			return "", func(answer) { k.state, k.deleteAt = store.PendingDeletion, now.Add(7*24*time.Hour) }
		}, "PendingWindowInDays", "7")
	case 4:
		return onKey("CancelKeyDeletion", func() (string, func(answer)) {
			if k.state != store.PendingDeletion {
				return "Rejected.StateModifiedFailed", nil
			}
			return "", func(answer) { k.state = store.Enabled }
		})
	case 5:
		protect := random.IntN(3) == 0
		return onKey("SetDeletionProtection", func() (string, func(answer)) {
			if k.state == store.PendingDeletion {
				return "Rejected.PendingDeletion", nil
			}
			return "", func(answer) { k.protected = protect }
		}, "EnableDeletionProtection", fmt.Sprint(protect))
	case 6:
		return onKey("CreateKeyVersion", func() (string, func(answer)) {
			return rejection[k.state], func(answer) { k.versions++ }
		})
	case 7:
		s := onKey("CreateAlias", func() (string, func(answer)) {
			target := keyId
			if name == alias {
				target = m.aliases[alias]
			}
			switch {
			case k.state == store.PendingDeletion:
				return "Rejected.StateModifiedFailed", nil
			case m.aliases[alias] != "":
				return "AliasAlreadyExists", nil
			}
			return "", func(answer) { m.aliases[alias] = target }
		}, "AliasName", alias)
		return s
	case 8:
		return onKey("UpdateAlias", func() (string, func(answer)) {
			target := keyId
			if name == alias {
				target = m.aliases[alias]
			}
			switch {
			case m.aliases[alias] == "":
				return "Forbidden.AliasNotFound", nil
			case k.state == store.PendingDeletion:
				return "Rejected.PendingDeletion", nil
			}
			return "", func(answer) { m.aliases[alias] = target }
		}, "AliasName", alias)
	case 9:
		if m.aliases[alias] == "" {
			return step{action: "DeleteAlias", params: []string{"AliasName", alias}, want: "Forbidden.AliasNotFound"}
		}
		return step{
			action: "DeleteAlias",
			params: []string{"AliasName", alias},
			apply:  func(answer) { delete(m.aliases, alias) },
		}
	case 10:
		tag := fmt.Sprint(random.IntN(3))
		return onKey("TagResource", func() (string, func(answer)) {
			return "", func(answer) { k.tags[tag] = "v" }
		}, "Tags", `[{"TagKey":"`+tag+`","TagValue":"v"}]`)
	}
	tag := fmt.Sprint(random.IntN(3))
	return onKey("UntagResource", func() (string, func(answer)) {
		return "", func(answer) { delete(k.tags, tag) }
	}, "TagKeys", `["`+tag+`"]`)
}

// compare compares the records and the number of key pairs with the model.
func (m *model) compare(b *bench) {
	b.t.Helper()
	got := &model{keys: map[string]*modelKey{}, aliases: map[string]string{}}
	pairs := 0
	records := b.db.Now()
	for k := range records.Keys().All() {
		tags := maps.Clone(k.Tags)
		if tags == nil {
			tags = map[string]string{}
		}
		versions := len(records.VersionsOf(k.KeyId))
		pairs += versions
		got.keys[k.KeyId] = &modelKey{state: k.KeyState, protected: k.Protected, versions: versions, tags: tags}
		if k.KeyState == store.PendingDeletion {
			got.keys[k.KeyId].deleteAt = k.DeleteDate
		}
	}
	for a := range records.Aliases().All() {
		got.aliases[a.AliasName] = a.KeyId
	}
	for _, k := range m.keys {
		if k.state != store.PendingDeletion {
			k.deleteAt = time.Time{}
		}
	}
	if diff := cmp.Diff(m, got, cmp.AllowUnexported(model{}, modelKey{})); diff != "" {
		b.t.Errorf("records (-want +got):\n%s", diff)
	}
	if n := b.backend.Len(); n != pairs {
		b.t.Errorf("%d key pairs in the token, want %d: one for each version", n, pairs)
	}
}
