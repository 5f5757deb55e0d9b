package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/integration/syscalls"
)

// needsRoot skips the test unless it runs as root, or fails it in CI. Only root may read the memory
// of a gateway, which intercepting its system calls requires, and mount file systems.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test needs root, because a gateway hides its memory from other processes of its user")
	}
	t.Skip("this test needs root")
}

// A callFault is a system call that fails on one kind of file.
type callFault struct {
	file  string // its kind
	call  string
	errno unix.Errno

	// trigger, if not empty, is a call on the files of the kind source. It fails once before, because
	// otherwise the gateway does not make the call.
	trigger, source string

	// rare means that the gateway makes the call only when the file has grown much.
	rare bool

	// overcome means that the gateway recovers although the call fails again and again.
	overcome bool
}

func (f callFault) String() string {
	if f.trigger == "" {
		return f.call + " of the " + f.file
	}
	return fmt.Sprintf("%s of the %s after %s of the %s", f.call, f.file, f.trigger, f.source)
}

// The kinds of files.
const (
	database  = "database"
	auditLog  = "audit log"
	directory = "directory of both"
	tokens    = "token"
	errorLog  = "standard error"
)

var callFaults = []callFault{
	{file: database, call: "fdatasync", errno: unix.EIO},
	{file: database, call: "pwrite64", errno: unix.ENOSPC},
	{file: auditLog, call: "fsync", errno: unix.EIO},
	{file: auditLog, call: "pwrite64", errno: unix.ENOSPC},
	{file: errorLog, call: "write", errno: unix.EIO},
	{file: tokens, call: "syncfs", errno: unix.EIO},

	{file: database, call: "ftruncate", errno: unix.ENOSPC, rare: true, overcome: true},
	{file: database, call: "openat", errno: unix.EMFILE, trigger: "fdatasync", source: database},
	{file: database, call: "rename", errno: unix.EIO, trigger: "fdatasync", source: database},
	{file: directory, call: "fsync", errno: unix.EIO, trigger: "fdatasync", source: database},
	{file: auditLog, call: "ftruncate", errno: unix.EIO, trigger: "pwrite64", source: auditLog, overcome: true},
	{file: auditLog, call: "rename", errno: unix.EIO},
	{file: auditLog, call: "openat", errno: unix.EMFILE, trigger: "fsync", source: auditLog},
	{file: directory, call: "fsync", errno: unix.EIO, trigger: "fsync", source: auditLog},
	{file: tokens, call: "openat", errno: unix.EMFILE},
	{file: tokens, call: "write", errno: unix.ENOSPC},
	{file: tokens, call: "ftruncate", errno: unix.EIO},
}

// match returns the condition for calls on a kind of file.
func (g *instance) match(kind string) func(syscalls.Call) bool {
	switch kind {
	case database:
		return syscalls.WithPrefix(g.dir + "/kmsgate.db")
	case auditLog:
		return syscalls.WithPrefix(g.dir + "/audit.log")
	case tokens:
		return syscalls.WithPrefix(g.dir + "/softhsm/")
	case errorLog:
		return syscalls.ToStderr
	}
	return func(c syscalls.Call) bool { return slices.Contains(c.Paths(), g.dir) }
}

// The ways in which a call fails: once, from then on for some time, or by hanging.
const (
	once    = "fails once"
	lasting = "fails"
	hanging = "hangs"
)

// durationOf returns how long a call at least fails or hangs. A watchdog that ends the process would
// do so after 30 s.
func durationOf(way string) time.Duration {
	switch {
	case way == lasting:
		return 3 * time.Second
	case *soak > 0:
		return 40 * time.Second
	}
	return 4 * time.Second
}

// TestSystemCallsFail makes the N-th system call on a file of a gateway that signs and changes fail
// or hang. Whatever fails, callers get no false answer, and after the fault the gateway serves again
// without a restart. A fault that lasts is reported. With -soak, N grows until there is no N-th
// call.
func TestSystemCallsFail(t *testing.T) {
	needsRoot(t)
	t.Parallel()
	random := newRandom(t)
	g, l := newInstance(t, binary), newLedger(random)
	g.watch = new(syscalls.Watch)
	g.start(t)
	signers, changers := callerCounts()
	l.start(t, g.env, signers, changers)
	l.served(t, "after the start")
	if *soak > 0 {
		failEachCall(t, g, l)
	} else {
		failSomeCalls(t, g, l, random)
	}
	l.prove(t, g)
}

// failSomeCalls makes the most important calls fail in each way, each at a random N, and some of the others
// fail once.
func failSomeCalls(t *testing.T, g *instance, l *ledger, random *rand.Rand) {
	t.Helper()
	for _, way := range []string{once, lasting, hanging} {
		for n, f := range callFaults[:6] {
			if way == lasting && n != 1 && n != 3 || way == hanging && n%2 != 0 {
				continue // all of them take too long
			}
			if !failCall(t, g, l, f, way, 1+random.IntN(3)) {
				t.Errorf("the gateway does not make the call: %s", f)
			}
		}
	}
	remaining := slices.DeleteFunc(slices.Clone(callFaults[6:]), func(f callFault) bool { return f.rare })
	random.Shuffle(len(remaining), func(i, j int) { remaining[i], remaining[j] = remaining[j], remaining[i] })
	for _, f := range remaining[:4] {
		if !failCall(t, g, l, f, once, 1) {
			t.Errorf("the gateway does not make the call: %s", f)
		}
	}
}

// failEachCall makes the N-th of each call fail in each way, for N from 1 on.
func failEachCall(t *testing.T, g *instance, l *ledger) {
	t.Helper()
	left := callFaults
	for n, done := 1, soaked(0); len(left) > 0; n++ {
		var reached []callFault
		for _, f := range left {
			ways := []string{once, lasting, hanging}
			if n&(n-1) != 0 {
				ways = ways[:2] // each hang takes long, so only every power of two hangs
			}
			again := false
			for _, way := range ways {
				if done() {
					t.Logf("the time is up at N = %d: %s %s", n, f, way)
					return
				}
				again = failCall(t, g, l, f, way, n) || again
			}
			switch {
			case again:
				reached = append(reached, f)
			case n == 1 && !f.rare:
				t.Errorf("the gateway does not make the call: %s", f)
			default:
				t.Logf("there is no call number %d: %s", n, f)
			}
		}
		left = reached
	}
}

// failCall makes the n-th call fail or hang, and checks that the gateway behaves well. It returns
// false if the gateway makes fewer calls for the changes that it waits for.
func failCall(t *testing.T, g *instance, l *ledger, f callFault, way string, n int) bool {
	t.Helper()
	if f.file == tokens && f.call != "syncfs" && way == hanging {
		return false // if all calls of a token hang, the process ends
	}
	event := fmt.Sprintf("call %d, %s, %s", n, f, way)
	if f.trigger != "" {
		trigger := g.watch.Inject(syscalls.Fault{Calls: []string{f.trigger}, Match: g.match(f.source), Once: true, Errno: unix.EIO})
		defer trigger.Lift()
	}
	fault := syscalls.Fault{Calls: []string{f.call}, Match: g.match(f.file), First: n, Once: way != lasting, Errno: f.errno}
	if way == hanging {
		fault.Errno = 0
	}
	before := l.tally()
	i := g.watch.Inject(fault)
	defer i.Lift()
	const work = 40 // changes; each makes several calls
	waitLong(t, event, func() bool {
		return i.Hits() > 0 || l.count(changing, answered) >= before[answer{changing, answered}]+work
	})
	if i.Hits() == 0 {
		return false
	}
	if way != once {
		l.endure(t, g, f, way, event, before)
		i.Lift()
	}
	l.served(t, "after "+event)
	waitLong(t, "readiness after "+event, func() bool {
		status, body, err := ask(g.env, "/ready")
		return err == nil && status == 200 && !strings.Contains(body, database)
	})
	if failures := l.failures(temporary); failures != "" || !g.runs() {
		t.Fatalf("%s: the gateway runs: %v, unexpected answers:\n%s", event, g.runs(), failures)
	}
	return true
}

// tally returns the numbers of all answers so far.
func (l *ledger) tally() map[answer]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.answers)
}

// endure waits until a fault that lasts has been reported, and has lasted as long as it must.
func (l *ledger) endure(t *testing.T, g *instance, f callFault, way, event string, before map[answer]int) {
	t.Helper()
	began := time.Now()
	reports := reportsOf(g, l, f, way, before)
	seen := make(map[string]bool) // reports can be short
	waitLong(t, "reports of "+event, func() bool {
		all := true
		for name, holds := range reports {
			seen[name] = seen[name] || holds(t)
			all = all && seen[name]
		}
		if !all && time.Since(began) > longWait-time.Second {
			t.Errorf("%s: reported %v", event, seen)
		}
		return all
	})
	t.Logf("reported within %v: %s", time.Since(began).Round(time.Millisecond), event)
	<-time.After(time.Until(began.Add(durationOf(way)))) // the rest of the fault
}

// reportsOf returns what must be seen while a fault lasts.
func reportsOf(g *instance, l *ledger, f callFault, way string, before map[answer]int) map[string]func(*testing.T) bool {
	more := func(request, code string) func(*testing.T) bool {
		number := 1 // of answers; the callers may wait for them as long as the gateway lets them wait
		if code == answered {
			number = 8
		}
		return func(*testing.T) bool { return l.count(request, code) >= before[answer{request, code}]+number }
	}
	ready := func(status int, text string) func(*testing.T) bool {
		return func(*testing.T) bool {
			got, body, err := ask(g.env, "/ready")
			return err == nil && got == status && strings.Contains(body, text)
		}
	}
	metric := func(failing, waiting string) func(*testing.T) bool {
		return func(t *testing.T) bool {
			failing, waiting := g.metric(t, failing), g.metric(t, waiting)
			return way == lasting && failing == 1 || way == hanging && waiting > 0
		}
	}
	switch {
	case f.file == directory || f.overcome && way == lasting:
		return nil
	case f.file == database:
		return map[string]func(*testing.T) bool{
			"changes are refused": more(changing, temporary), "signing continues": more(signing, answered),
			"/ready warns": ready(200, "warning: "), "the metric": metric("kmsgate_database_failing", "kmsgate_database_oldest_wait_seconds"),
		}
	case f.file == auditLog:
		return map[string]func(*testing.T) bool{
			"changes are refused": more(changing, temporary), "signing is refused": more(signing, temporary),
			"/ready fails": ready(503, ""), "the metric": metric("kmsgate_audit_failing", "kmsgate_audit_oldest_wait_seconds"),
		}
	case f.file == errorLog:
		return map[string]func(*testing.T) bool{
			"changing continues": more(changing, answered), "signing continues": more(signing, answered), "/ready": ready(200, "ok"),
		}
	}
	if way == lasting {
		return nil // the token may be lost
	}
	return map[string]func(*testing.T) bool{"signing continues": more(signing, answered)}
}
