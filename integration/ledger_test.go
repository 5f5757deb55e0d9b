package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// A ledger has callers that sign and change, and records what the gateway has answered them. Later
// it checks that the gateway has every change that it acknowledged, and none that it refused. If a
// call had no answer, or one that does not say that nothing happened, either is right.
type ledger struct {
	specs  []hsm.KeySpec // of the keys that callers create, in turn
	steady bool          // callers keep their keys and make only changes that add no records for long

	stopping atomic.Bool
	callers  sync.WaitGroup

	mu      sync.Mutex
	random  *rand.Rand        // guarded by mu, like the fields below
	started int               // callers so far
	facts   map[fact][]string // the values that each may have
	answers map[answer]int    // how many
	example map[answer]error  // the last of the errors
}

// An answer is the code of an answer to one kind of request.
type answer struct{ request, code string }

// The kinds of requests. The last ones must be refused.
const (
	signing   = "sign"
	changing  = "change"
	reading   = "read"
	forbidden = "forbidden change"
)

// The codes of answers, besides those of the API's errors.
const (
	answered   = "OK"
	unanswered = "no answer"
	temporary  = "503 ServiceUnavailableTemporary"
)

// newLedger returns a ledger whose callers create keys of the given KeySpecs, or EC_P256 if there
// are none. Its choices are those of random.
func newLedger(random *rand.Rand, specs ...hsm.KeySpec) *ledger {
	if len(specs) == 0 {
		specs = []hsm.KeySpec{hsm.EC_P256}
	}
	return &ledger{specs: specs, random: rand.New(rand.NewPCG(random.Uint64(), 0)),
		facts: make(map[fact][]string), answers: make(map[answer]int), example: make(map[answer]error)}
}

// start starts callers that only sign and callers that only change, until stop or the test's end.
func (l *ledger) start(t *testing.T, env map[string]string, signers, changers int) {
	t.Helper()
	l.stopping.Store(false)
	for n := range signers + changers {
		client, err := devgateway.SDK(env)
		if err != nil {
			t.Fatal(err)
		}
		// By default, the SDK waits forever.
		client.ConnectTimeout, client.ReadTimeout = tea.Int(10_000), tea.Int(int(longWait.Milliseconds()))
		c := &caller{ledger: l, t: t, client: client, signs: n < signers}
		l.mu.Lock()
		l.started++
		c.name, c.spec = fmt.Sprintf("c%d", l.started), l.specs[n%len(l.specs)]
		c.random = rand.New(rand.NewPCG(l.random.Uint64(), 0))
		l.mu.Unlock()
		l.callers.Go(c.run)
	}
	t.Cleanup(l.stop)
}

// stop stops the callers and waits for them.
func (l *ledger) stop() {
	l.stopping.Store(true)
	l.callers.Wait()
}

// count returns how many requests of a kind have had an answer with a code.
func (l *ledger) count(request, code string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[answer{request, code}]
}

// failures describes the answers that were neither successful nor have one of the allowed codes. It
// returns an empty string if there were none.
func (l *ledger) failures(allowed ...string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for a, n := range l.answers {
		ok := a.code == answered
		if a.request == forbidden {
			ok = a.code == "404 Forbidden.KeyNotFound"
		}
		if !ok && !slices.Contains(allowed, a.code) {
			all = append(all, fmt.Sprintf("%d × %s: %s (%v)", n, a.request, a.code, l.example[a]))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// record counts an answer and returns its code.
func (l *ledger) record(t *testing.T, request string, err error) (code string) {
	code = answered
	if sdk := (*tea.SDKError)(nil); errors.As(err, &sdk) && tea.IntValue(sdk.StatusCode) > 0 {
		code, _ = errorCode(t, err)
	} else if err != nil {
		code = unanswered
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers[answer{request, code}]++
	l.example[answer{request, code}] = err
	return code
}

// set records the only value that a fact can have.
func (l *ledger) set(f fact, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.facts[f] = []string{value}
}

// change makes a change after which a fact has the value that do returns, and reports whether the
// gateway has acknowledged it.
func (l *ledger) change(t *testing.T, f fact, do func() (value string, err error)) bool {
	value, err := do()
	code := l.record(t, changing, err)
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.facts[f]
	if before == nil {
		before = []string{""}
	}
	switch {
	case code == answered:
		l.facts[f] = []string{value}
		return true
	case strings.HasPrefix(code, "4"):
		l.facts[f] = before
	default:
		l.facts[f] = append(slices.Clone(before), value)
	}
	return false
}

// check checks that the gateway's records agree with the ledger, and that every version of an
// enabled key signs. The callers must have stopped.
func (l *ledger) check(t *testing.T, env map[string]string) {
	t.Helper()
	for _, violation := range l.violations(t, env) {
		t.Error(violation)
	}
}

// violations returns what check reports.
func (l *ledger) violations(t *testing.T, env map[string]string) (all []string) {
	t.Helper()
	actual := readFacts(t, env)
	l.mu.Lock()
	defer l.mu.Unlock()
	for f, possible := range l.facts {
		value := actual[f]
		if f.kind == version && strings.HasPrefix(value, keyIs) {
			value = signs // its key's state is another fact
		}
		if !slices.Contains(possible, value) && !slices.Contains(possible, anything) {
			all = append(all, fmt.Sprintf("the %s of %s is %q, want one of %q", f.kind, f.subject, value, possible))
		}
	}
	for f, value := range actual {
		if f.kind == version && value != signs && !strings.HasPrefix(value, keyIs) && l.facts[f] == nil {
			all = append(all, fmt.Sprintf("the version %s, which no answer named, does not sign: %s", f.subject, value))
		}
	}
	return all
}

// served waits until the gateway has answered some more signatures and changes, after an event.
func (l *ledger) served(t *testing.T, event string) {
	t.Helper()
	const more = 8
	signed, changed := l.count(signing, answered)+more, l.count(changing, answered)+more
	began := time.Now()
	waitLong(t, "signatures and changes "+event, func() bool {
		return l.count(signing, answered) >= signed && l.count(changing, answered) >= changed
	})
	t.Logf("served %v %s", time.Since(began).Round(time.Millisecond), event)
}

// prove stops the gateway, starts it again and checks the ledger. The doctor must find no problem,
// the audit log must be whole, and the token must have the recorded objects and no more. Afterwards,
// the gateway is stopped.
func (l *ledger) prove(t *testing.T, g *instance) {
	t.Helper()
	l.stop()
	if *soak > 0 { // costs as much time as the check below
		l.check(t, g.env)
	}
	g.stop(t)
	g.wrapper, g.stderr, g.watch = nil, nil, nil
	g.start(t)
	l.check(t, g.env)
	if out, err := kmsgate(t, "doctor", "--timeout", "2m", "--socket", g.env["KMSGATE_ADMIN_SOCKET"]); err != nil || !strings.Contains(out, "No problems were found.") {
		t.Errorf("kmsgate doctor: %v, want no problems, got:\n%s", err, out)
	}
	head := strings.TrimSpace(administer(t, g.env, "audit", "head"))
	g.stop(t)
	out, err := kmsgate(t, "audit", "verify", "--config", g.configuration(),
		"--audit-public-key", g.env["KMSGATE_AUDIT_PUBLIC_KEY"], "--expect", head)
	if err != nil || !strings.HasPrefix(out, "proven: lines 1 to ") {
		t.Errorf("kmsgate audit verify: %v\n%s", err, out)
	}
	checkObjects(t, g.dir)
	t.Logf("%d signatures, %d changes acknowledged", l.count(signing, answered), l.count(changing, answered))
}

// callerCounts returns how many callers of each kind a test has: 32 in all, or 8 in a short run.
func callerCounts() (signers, changers int) {
	if *soak > 0 {
		return 16, 16
	}
	return 4, 4
}
