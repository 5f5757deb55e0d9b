package gateway_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kmsgate/kmsgate/store"
)

// soak is how long TestModel draws new programs.
var soak = flag.Duration("soak", 0, "how long TestModel runs (0: one round of programs)")

// init sets how many programs TestModel draws in a round. The command line can change it. A failed
// program leaves no file in the tree: the seed that rapid prints repeats it.
func init() {
	for name, value := range map[string]string{"rapid.checks": "100", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err) // rapid has renamed its flag
		}
	}
}

// A program is what clients and disturbances do to a gateway at the same time. It is data, so that
// rapid can shorten one that fails.
type program struct {
	Clients      [][]request // for each client, its requests in order
	Disturbances []disturbance
}

// A request is one request of a client.
type request struct {
	Pause   time.Duration // before it
	Action  string
	Slot    int  // which key: the one that was created last in this slot
	Alias   int  // which alias
	ByAlias bool // the alias names the key, where the operation allows it
	Tag     int
	Value   string // of a tag or a description
	Version int    // which version of the key signs
	Protect bool
}

const (
	modelSlots   = 3
	modelAliases = 3
	modelTags    = 2
)

// modelReads and modelChanges are the operations of programs. rapid replaces requests that do not
// matter by the first operation.
var (
	modelReads = []string{
		"DescribeKey", "AsymmetricSign", "ListKeyVersions", "ListResourceTags", "ListAliasesByKeyId", "ListAliases", "ListKeys",
	}
	modelChanges = []string{
		"CreateKey", "CreateKeyVersion", "CreateAlias", "UpdateAlias", "DeleteAlias", "TagResource", "UntagResource",
		"DisableKey", "EnableKey", "ScheduleKeyDeletion", "CancelKeyDeletion", "SetDeletionProtection", "UpdateKeyDescription",
	}
	modelActions = slices.Concat(modelReads[:2], modelChanges, modelReads[2:])
)

// pauses are shorter and longer than the calls of the token, and longer than the interval at which
// the log tries again.
var pauses = rapid.SampledFrom([]time.Duration{0, 10 * time.Millisecond, 30 * time.Millisecond, 2 * time.Second, 6 * time.Second})

var requests = rapid.Custom(func(t *rapid.T) request {
	return request{
		Pause:   pauses.Draw(t, "pause"),
		Action:  rapid.SampledFrom(modelActions).Draw(t, "action"),
		Slot:    rapid.IntRange(0, modelSlots-1).Draw(t, "slot"),
		Alias:   rapid.IntRange(0, modelAliases-1).Draw(t, "alias"),
		ByAlias: rapid.Bool().Draw(t, "by alias"),
		Tag:     rapid.IntRange(0, modelTags-1).Draw(t, "tag"),
		Value:   rapid.SampledFrom([]string{"a", "b"}).Draw(t, "value"),
		Version: rapid.IntRange(0, 2).Draw(t, "version"),
		Protect: rapid.Bool().Draw(t, "protect"),
	}
})

var disturbances = rapid.Custom(func(t *rapid.T) disturbance {
	return disturbance{
		Pause: pauses.Draw(t, "pause"),
		Kind:  rapid.IntRange(0, len(kindsOfDisturbance)-1).Draw(t, "kind"),
	}
})

// TestModel runs random programs against a gateway: concurrent clients, restarts, kills, faults of
// the token, of the audit log and of the database, time that passes, and a wall clock that jumps.
//
// The answers must be those of a sequential model of the records, in one order that agrees with the
// order of the calls. A key must be deleted only after its window was seen to pass. The audit log
// must have one line for each answer, in an order that agrees with that of the calls. A restart
// must show the same records. In the end, every recorded key pair must sign, and the token must
// have no other. -soak runs programs for longer; -rapid.seed repeats one.
func TestModel(t *testing.T) {
	t.Parallel() // it waits for the disk
	parent := t.TempDir()
	var first sync.Once
	check := func(rt *rapid.T) {
		p := program{
			Clients:      rapid.SliceOfN(rapid.SliceOfN(requests, 4, 20), 2, 4).Draw(rt, "clients"),
			Disturbances: rapid.SliceOfN(disturbances, 0, 10).Draw(rt, "disturbances"),
		}
		dir, err := os.MkdirTemp(parent, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s := newSimulation(dir)
		rapid.SyncTest(rt, func(*rapid.T) { s.run(p) })
		failures := s.judge()
		if len(failures) == 0 {
			return
		}
		// The clients may never take turns in this way again, so the first failure is logged at once.
		report, kinds := fmt.Sprintf("%+v", p), make(map[string]bool)
		for _, f := range failures {
			report += "\n" + f.kind + ": " + f.detail
			kinds[f.kind] = true
		}
		first.Do(func() { t.Log(report) })
		rt.Log(report)
		// rapid shortens a program as long as the message stays the same, so it names no keys.
		rt.Fatal(strings.Join(slices.Sorted(maps.Keys(kinds)), "; "))
	}
	for began := time.Now(); ; {
		rapid.Check(t, check)
		if time.Since(began) >= *soak {
			return
		}
	}
}

// TestModelRefuses checks which histories TestModel accepts.
func TestModelRefuses(t *testing.T) {
	const week = 7 * day
	create := modelCall{req: modelInput{action: "CreateKey", keyId: "k", version: "v"}, answered: true, status: 200}
	alias := modelCall{req: modelInput{action: "CreateAlias", keyId: "k", alias: "alias/a"}, answered: true, status: 200}
	disable := modelCall{req: modelInput{action: "DisableKey", keyId: "k"}, answered: true, status: 200}
	schedule := modelCall{req: modelInput{action: "ScheduleKeyDeletion", keyId: "k"}, answered: true, status: 200}
	destroy := modelCall{req: modelInput{action: deleteKey, keyId: "k"}, answered: true, status: 200}
	passes := func(d time.Duration) modelCall {
		return modelCall{req: modelInput{action: passTime, passes: d}, answered: true, status: 200}
	}
	describe := func(state string) modelCall {
		return modelCall{req: modelInput{action: "DescribeKey", keyId: "k"}, answered: true, status: 200, value: keyText(state, false, "")}
	}
	aliases := func(text string) modelCall {
		return modelCall{req: modelInput{action: "ListAliases"}, answered: true, status: 200, value: text}
	}
	for name, tc := range map[string]struct {
		calls []modelCall // one after another
		want  bool
	}{
		"a change that is seen":          {[]modelCall{create, disable, describe(store.Disabled)}, true},
		"a lost change":                  {[]modelCall{create, disable, describe(store.Enabled)}, false},
		"a change before its request":    {[]modelCall{create, describe(store.Disabled), disable}, false},
		"a deletion at its time":         {[]modelCall{create, schedule, passes(week), destroy}, true},
		"a deletion too early":           {[]modelCall{create, schedule, passes(week - time.Hour), destroy}, false},
		"a deletion without a request":   {[]modelCall{create, passes(week), destroy}, false},
		"a deletion with its alias":      {[]modelCall{create, alias, schedule, passes(week), destroy, aliases("")}, true},
		"an alias that outlives its key": {[]modelCall{create, alias, schedule, passes(week), destroy, aliases("alias/a=k")}, false},
		"a signature of a disabled key": {[]modelCall{create, disable, {req: modelInput{action: "AsymmetricSign", keyId: "k", version: "v"},
			answered: true, status: 200, value: "k v"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSimulation(t.TempDir())
			for _, c := range tc.calls {
				c.began, c.ended = s.order.Add(1), s.order.Add(1)
				s.calls = append(s.calls, &c)
			}
			s.checkHistory(nil)
			if got := len(s.failures) == 0; got != tc.want {
				t.Errorf("accepted: %v, want %v: %v", got, tc.want, s.failures)
			}
		})
	}
}
