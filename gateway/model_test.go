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

// A model is what the gateway's records should be, kept in the simplest way.
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

// A step is one call, with what the model says that it answers and does.
type step struct {
	action string
	params []string
	want   string // the code
	then   func(answer)
}

// TestModel does random sequences of operations and compares every answer, and
// the records in the end, with the model.
func TestModel(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel() // it waits for the disk
			b := newBench(t)
			m := &model{
				keys:    map[string]*modelKey{b.key.KeyId: {state: store.Enabled, versions: 1, tags: map[string]string{}}},
				aliases: map[string]string{"alias/test": b.key.KeyId},
			}
			random := rand.New(rand.NewPCG(seed, 0))
			for n := range 300 {
				if random.IntN(20) == 0 {
					b.clock.move(3 * 24 * time.Hour)
					b.server.CarryOutDeletions(t.Context())
					m.passTo(b.clock.Now())
				}
				s := m.step(random, b.clock.Now())
				a := b.do(b.root, s.action, s.params...)
				if a.Code != s.want {
					t.Fatalf("step %d: %s %v: %q (%s), the model says %q", n, s.action, s.params, a.Code, a.Message, s.want)
				}
				if a.Code == "" && s.then != nil {
					s.then(a)
				}
			}
			m.compare(b)
		})
	}
}

// passTo deletes what is due.
func (m *model) passTo(now time.Time) {
	for keyId, k := range m.keys {
		if k.state == store.PendingDeletion && !k.deleteAt.After(now) {
			delete(m.keys, keyId)
			maps.DeleteFunc(m.aliases, func(_, target string) bool { return target == keyId })
		}
	}
}

// step makes up a call on a key that may not exist, by its id or an alias.
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
	// on gives a step that needs the key: change says what it answers and does.
	on := func(action string, change func() (string, func(answer)), more ...string) step {
		s := step{action: action, params: append([]string{"KeyId", name}, more...), want: missing}
		if k != nil {
			s.want, s.then = change()
		}
		return s
	}
	usable := map[string]string{store.Enabled: "", store.Disabled: "Rejected.Disabled", store.PendingDeletion: "Rejected.PendingDeletion"}
	to := func(state string) func() (string, func(answer)) {
		return func() (string, func(answer)) {
			if k.state == store.PendingDeletion {
				return "Rejected.StateModifiedFailed", nil
			}
			return "", func(answer) { k.state = state }
		}
	}
	switch random.IntN(12) {
	case 0:
		return step{action: "CreateKey", params: []string{"KeySpec", "EC_P256"}, then: func(a answer) {
			m.keys[a.Body["KeyMetadata"].(map[string]any)["KeyId"].(string)] = &modelKey{state: store.Enabled, versions: 1, tags: map[string]string{}}
		}}
	case 1:
		return on("EnableKey", to(store.Enabled))
	case 2:
		return on("DisableKey", to(store.Disabled))
	case 3:
		return on("ScheduleKeyDeletion", func() (string, func(answer)) {
			if k.state == store.PendingDeletion || k.protected {
				return "Rejected.StateModifiedFailed", nil
			}
			return "", func(answer) { k.state, k.deleteAt = store.PendingDeletion, now.Add(7*24*time.Hour) }
		}, "PendingWindowInDays", "7")
	case 4:
		return on("CancelKeyDeletion", func() (string, func(answer)) {
			if k.state != store.PendingDeletion {
				return "Rejected.StateModifiedFailed", nil
			}
			return "", func(answer) { k.state = store.Enabled }
		})
	case 5:
		protect := random.IntN(3) == 0
		return on("SetDeletionProtection", func() (string, func(answer)) {
			if k.state == store.PendingDeletion {
				return "Rejected.PendingDeletion", nil
			}
			return "", func(answer) { k.protected = protect }
		}, "EnableDeletionProtection", fmt.Sprint(protect))
	case 6:
		return on("CreateKeyVersion", func() (string, func(answer)) {
			return usable[k.state], func(answer) { k.versions++ }
		})
	case 7:
		s := on("CreateAlias", func() (string, func(answer)) {
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
		return on("UpdateAlias", func() (string, func(answer)) {
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
		return step{action: "DeleteAlias", params: []string{"AliasName", alias}, then: func(answer) { delete(m.aliases, alias) }}
	case 10:
		tag := fmt.Sprint(random.IntN(3))
		return on("TagResource", func() (string, func(answer)) {
			return "", func(answer) { k.tags[tag] = "v" }
		}, "Tags", `[{"TagKey":"`+tag+`","TagValue":"v"}]`)
	}
	tag := fmt.Sprint(random.IntN(3))
	return on("UntagResource", func() (string, func(answer)) {
		return "", func(answer) { delete(k.tags, tag) }
	}, "TagKeys", `["`+tag+`"]`)
}

// compare holds the records, and the key pairs, to the model.
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
		b.t.Errorf("records (- model, + gateway): %s", diff)
	}
	if n := b.backend.Len(); n != pairs {
		b.t.Errorf("%d key pairs for %d versions", n, pairs)
	}
}
