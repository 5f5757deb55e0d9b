package limit_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// A clock stands still until the test moves it.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// count returns how many of n attempts succeed.
func count(n int, attempt func() bool) (successes int) {
	for range n {
		if attempt() {
			successes++
		}
	}
	return successes
}

// TestBuckets checks that a bucket has the tokens of one second at first, and refills at the
// limit's rate. Each user and each quota has a bucket, and so has the instance.
func TestBuckets(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	var b limit.Buckets
	check := func(name, user string, quota kms.Quota, perSecond float64, want int) {
		t.Helper()
		if got := count(100, func() bool { return b.Take(user, quota, perSecond, c.Now) }); got != want {
			t.Errorf("%s: got %d of 100 tokens, want %d", name, got, want)
		}
	}
	check("at first", "a", kms.QuotaKeyRead, 10, 10)
	check("another user", "b", kms.QuotaKeyRead, 10, 10)
	check("another quota", "a", kms.QuotaKeyWrite, 5, 5)
	check("the instance", "", kms.QuotaKeyRead, 3, 3)
	check("again at once", "a", kms.QuotaKeyRead, 10, 0)
	c.now = c.now.Add(300 * time.Millisecond)
	check("after 300 ms", "a", kms.QuotaKeyRead, 10, 3)
	c.now = c.now.Add(time.Hour)
	check("after an hour", "a", kms.QuotaKeyRead, 10, 10)
	check("without a limit", "a", kms.QuotaKeyRead, 0, 100)
	check("at half a token per second", "c", kms.QuotaKeyRead, 0.5, 1)
	c.now = c.now.Add(time.Second)
	check("after half of the time for a token", "c", kms.QuotaKeyRead, 0.5, 0)
	c.now = c.now.Add(time.Second)
	check("after all of that time", "c", kms.QuotaKeyRead, 0.5, 1)
}

// TestBucketsChangedLimit checks that a changed limit applies at once, but adds no tokens for
// the time before.
func TestBucketsChangedLimit(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	var b limit.Buckets
	take := func(perSecond float64) int {
		return count(100, func() bool { return b.Take("a", kms.QuotaKeyRead, perSecond, c.Now) })
	}
	if got := take(10); got != 10 {
		t.Fatalf("got %d tokens, want 10", got)
	}
	if got := take(50); got != 0 {
		t.Errorf("limit raised: got %d tokens at once, want 0", got)
	}
	c.now = c.now.Add(time.Second)
	if got := take(50); got != 50 {
		t.Errorf("limit raised: got %d tokens after a second, want 50", got)
	}
	c.now = c.now.Add(time.Hour)
	if got := take(2); got != 2 {
		t.Errorf("limit lowered: got %d tokens, want 2", got)
	}
}

// TestBucketsClockSetBack checks that a clock that is set back adds no tokens, and that the
// bucket refills again once the clock has caught up.
func TestBucketsClockSetBack(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	var b limit.Buckets
	take := func(n int) int {
		return count(n, func() bool { return b.Take("a", kms.QuotaKeyRead, 10, c.Now) })
	}
	if got := take(7); got != 7 {
		t.Fatalf("got %d tokens, want 7", got)
	}
	for _, offset := range []time.Duration{-time.Hour, -time.Minute, -2 * time.Hour} {
		c.now = noon.Add(offset)
		if got := take(1); got != 1 { // only a successful take can set the bucket back
			t.Errorf("clock at noon%+v: got %d tokens, want 1", offset, got)
		}
	}
	for _, offset := range []time.Duration{-time.Hour, 0} {
		c.now = noon.Add(offset)
		if got := take(100); got != 0 {
			t.Errorf("clock at noon%+v: got %d tokens, want 0", offset, got)
		}
	}
	c.now = noon.Add(500 * time.Millisecond)
	if got := take(100); got != 5 {
		t.Errorf("clock caught up: got %d tokens after 500 ms, want 5", got)
	}
}

// TestBucketsForget checks that full buckets are dropped from memory, and that a user whose
// bucket is not full gets no new one.
func TestBucketsForget(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	var b limit.Buckets
	const users = 1000
	for i := range users {
		b.Take(fmt.Sprint("user-", i), kms.QuotaKeyRead, 10, c.Now)
	}
	b.Take("slow", kms.QuotaKeyRead, 0.5, c.Now) // refilled after two seconds
	if got := b.Len(); got != users+1 {
		t.Fatalf("got %d buckets, want %d", got, users+1)
	}
	c.now = c.now.Add(time.Second)
	b.Take("new", kms.QuotaKeyRead, 10, c.Now)
	if got := b.Len(); got != 2 {
		t.Errorf("a second later: got %d buckets, want 2 (slow and new)", got)
	}
	if b.Take("slow", kms.QuotaKeyRead, 0.5, c.Now) {
		t.Error("slow: got a token after one second, want none before two")
	}
}

// TestQuotas checks that a user's limit overrides the configured one, which overrides the
// documented one.
func TestQuotas(t *testing.T) {
	t.Parallel()
	q := limit.Quotas{Shared: map[string]float64{"key_read": 7}, DedicatedUser: 3, DedicatedInstance: 4, DedicatedOther: 6}
	for name, tc := range map[string]struct {
		quota      kms.Quota
		userLimits map[string]float64
		want       float64
	}{
		"documented":               {kms.QuotaAsymmetric, nil, 200},
		"configured":               {kms.QuotaKeyRead, nil, 7},
		"user's limit":             {kms.QuotaKeyRead, map[string]float64{"key_read": 9}, 9},
		"user's limit for another": {kms.QuotaKeyRead, map[string]float64{"key_write": 9}, 7},
		"dedicated":                {kms.QuotaDedicatedUser, nil, 3},
		"dedicated, user's limit":  {kms.QuotaDedicatedUser, map[string]float64{"dedicated": 5}, 5},
		"dedicated instance":       {kms.QuotaDedicatedInstance, nil, 4},
		"dedicated, other":         {kms.QuotaDedicatedOther, nil, 6},
		"administration":           {kms.QuotaAdministration, nil, 0},
	} {
		if got := q.PerSecond(tc.quota, tc.userLimits); got != tc.want {
			t.Errorf("%s: got %g per second, want %g", name, got, tc.want)
		}
	}
	if err := q.Check(); err != nil {
		t.Errorf("Check(%v): %v", q, err)
	}
	for _, invalid := range []map[string]float64{
		{"nothing": 1}, {"key_read": 0}, {"key_read": -1}, {"dedicated": 1}, {"dedicated_other": 1},
		{"administration": 1},
	} {
		if (limit.Quotas{Shared: invalid}).Check() == nil {
			t.Errorf("Check(%v): got no error", invalid)
		}
	}
	names := limit.Names()
	if len(names) != 10 || slices.Contains(names, kms.QuotaAdministration) {
		t.Errorf("Names: got %q, want 10 names without %q", names, kms.QuotaAdministration)
	}
	for _, name := range names {
		if got, want := limit.IsUserQuota(name), name != kms.QuotaDedicatedInstance; got != want {
			t.Errorf("IsUserQuota(%q): got %v, want %v", name, got, want)
		}
	}
}

// stranger returns a refusal of a caller who cannot authenticate.
func stranger(c *clock, source string) limit.Refusal {
	return limit.Refusal{Time: c.now, Source: source, Code: "SignatureDoesNotMatch"}
}

// known returns a refusal of an authenticated caller.
func known(c *clock, principal, code string) limit.Refusal {
	return limit.Refusal{Time: c.now, Source: "192.0.2.1", Principal: principal, Code: code}
}

// TestStrangers checks the limits per source and in total, and that refusals without a line are
// counted.
func TestStrangers(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	r := limit.NewRefusals(limit.LogLines{PerSource: 3, PerSourcePerMinute: 2, Total: 10, TotalPerMinute: 6})
	check := func(name, source string, n, want int) {
		t.Helper()
		if got := count(n, func() bool { return r.Allow(stranger(c, source), c.Now) }); got != want {
			t.Errorf("%s: got %d lines for %d refusals, want %d", name, got, n, want)
		}
	}
	counted := func(want ...limit.Counted) {
		t.Helper()
		if got := r.TakeCounted(); !slices.Equal(got, want) {
			t.Errorf("refusals without a line: got %+v, want %+v", got, want)
		}
	}
	check("at first", "192.0.2.1", 5, 3)
	check("a second source", "192.0.2.2", 4, 3)
	counted(limit.Counted{N: 3, First: noon, Last: noon, Source: "192.0.2.2"})
	counted()
	check("a third source", "192.0.2.3", 3, 3)
	check("the last line in total", "192.0.2.4", 3, 1)
	lost := limit.Counted{N: 2, First: noon, Last: noon, Source: "192.0.2.4"}
	counted(lost)
	c.now = c.now.Add(30 * time.Second)
	r.Count(stranger(c, "192.0.2.5"))
	r.CountAgain(lost)
	counted(limit.Counted{N: 3, First: noon, Last: c.now, Source: "192.0.2.5"})
	check("after half a minute", "192.0.2.1", 3, 1)
	check("a source with all its lines", "192.0.2.9", 3, 2) // the total has only two
	counted(limit.Counted{N: 2 + 1, First: c.now, Last: c.now, Source: "192.0.2.9"})
	c.now = c.now.Add(time.Hour)
	check("after an hour", "192.0.2.1", 2, 2)
	c.now = c.now.Add(-time.Minute)
	check("clock set back", "192.0.2.1", 1, 1)
	c.now = c.now.Add(time.Minute)
	check("clock as before", "192.0.2.1", 2, 0)
}

// TestKnownCallers checks that authenticated callers have a limit each, whatever the codes of their
// refusals, and that refusals without a line are counted by caller and code.
func TestKnownCallers(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	r := limit.NewRefusals(limit.LogLines{PerCaller: 3, PerCallerPerMinute: 60, Total: 1, PerSource: 1})
	check := func(name, principal, code string, n, want int) {
		t.Helper()
		if got := count(n, func() bool { return r.Allow(known(c, principal, code), c.Now) }); got != want {
			t.Errorf("%s: got %d lines for %d refusals, want %d", name, got, n, want)
		}
	}
	check("alice at first", "alice", "Forbidden.NoPermission", 5, 3)
	check("alice with another code", "alice", "Rejected.Throttling", 4, 0)
	check("bob", "bob", "Rejected.Throttling", 4, 3)
	if !r.Allow(stranger(c, "192.0.2.1"), c.Now) {
		t.Error("a stranger: got no line, want the one of its source")
	}
	c.now = c.now.Add(2 * time.Second)
	check("alice after two seconds", "alice", "Forbidden.NoPermission", 5, 2)
	want := []limit.Counted{
		{Principal: "alice", Code: "Forbidden.NoPermission", N: 5, First: noon, Last: c.now, Source: "192.0.2.1"},
		{Principal: "alice", Code: "Rejected.Throttling", N: 4, First: noon, Last: noon, Source: "192.0.2.1"},
		{Principal: "bob", Code: "Rejected.Throttling", N: 1, First: noon, Last: noon, Source: "192.0.2.1"},
	}
	if got := r.TakeCounted(); !slices.Equal(got, want) {
		t.Errorf("refusals without a line: got %+v, want %+v", got, want)
	}
}

// TestCountedBounded checks that the memory for counts is bounded: beyond MaxCounted callers and
// codes, the callers with one code are counted together, and no refusal is lost.
func TestCountedBounded(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	r := limit.NewRefusals(limit.LogLines{})
	const surplus = 100
	for i := range limit.MaxCounted + surplus {
		r.Count(known(c, fmt.Sprint("user-", i), "Forbidden.NoPermission"))
		r.Count(known(c, "user-0", "Forbidden.NoPermission"))
	}
	r.Count(stranger(c, "192.0.2.1"))
	all := r.TakeCounted()
	n := 0
	for _, counted := range all {
		n += counted.N
	}
	if len(all) != limit.MaxCounted+2 || n != 2*(limit.MaxCounted+surplus)+1 {
		t.Errorf("got %d counts of %d refusals, want %d of %d", len(all), n, limit.MaxCounted+2, 2*(limit.MaxCounted+surplus)+1)
	}
	overflow := limit.Counted{Code: "Forbidden.NoPermission", N: surplus, First: noon, Last: noon, Source: "192.0.2.1"}
	if !slices.Contains(all, overflow) {
		t.Errorf("got no count %+v of the callers beyond MaxCounted", overflow)
	}
}

// TestLogLinesDefaults checks that zero fields have the value of DefaultLogLines.
func TestLogLinesDefaults(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	r := limit.NewRefusals(limit.LogLines{PerSource: 2000})
	allow := func() bool { return r.Allow(stranger(c, "192.0.2.1"), c.Now) }
	if got, want := count(1500, allow), int(limit.DefaultLogLines.Total); got != want {
		t.Errorf("got %d lines in total, want %d", got, want)
	}
	r = limit.NewRefusals(limit.LogLines{})
	if got, want := count(1500, allow), int(limit.DefaultLogLines.PerSource); got != want {
		t.Errorf("got %d lines for one source, want %d", got, want)
	}
	refuse := func() bool { return r.Allow(known(c, "alice", "Rejected.Throttling"), c.Now) }
	if got, want := count(1500, refuse), int(limit.DefaultLogLines.PerCaller); got != want {
		t.Errorf("got %d lines for one caller, want %d", got, want)
	}
}

// TestSources checks that MaxSources sources have a limit each and the rest share one, until
// sources that have all their lines again are forgotten.
func TestSources(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	r := limit.NewRefusals(limit.LogLines{PerSource: 1, PerSourcePerMinute: 1, Total: 1e6})
	allow := func(i int) bool {
		return r.Allow(stranger(c, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)), c.Now)
	}
	for i := range limit.MaxSources {
		if !allow(i) {
			t.Fatalf("source %d: got no line, want one", i)
		}
	}
	if got := count(10, func() bool { return allow(limit.MaxSources) }); got != 1 {
		t.Errorf("a source beyond MaxSources: got %d lines, want 1", got)
	}
	if allow(limit.MaxSources + 1) {
		t.Error("two sources beyond MaxSources got a line each, want one for both")
	}
	if n := r.Sources(); n != limit.MaxSources+1 {
		t.Errorf("Sources: got %d, want %d", n, limit.MaxSources+1)
	}
	c.now = c.now.Add(time.Minute)
	if !allow(limit.MaxSources + 2) {
		t.Error("a new source a minute later: got no line, want one")
	}
	if n := r.Sources(); n != 1 {
		t.Errorf("Sources a minute later: got %d, want 1", n)
	}
}

// TestNetworkOf checks that all spellings of an IPv4 address count as one network, and so do
// all addresses of an IPv6 /64.
func TestNetworkOf(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8::1": "2001:db8::/64", "2001:db8::ffff:1:2:3": "2001:db8::/64",
		"2001:db8:0:1::1": "2001:db8:0:1::/64",
		"fe80::1%eth0":    "fe80::/64", "@": "@", "": "",
	} {
		if got := limit.NetworkOf(source); got != want {
			t.Errorf("NetworkOf(%q): got %q, want %q", source, got, want)
		}
		prefix := limit.PrefixOf(source)
		if got := prefix.IsValid(); got != (source != "@" && source != "") {
			t.Errorf("PrefixOf(%q): got %v", source, prefix)
		}
		if got := strings.TrimSuffix(prefix.String(), "/32"); prefix.IsValid() && got != want {
			t.Errorf("PrefixOf(%q): got %v, want the network %s", source, prefix, want)
		}
	}
	c := &clock{noon}
	r := limit.NewRefusals(limit.LogLines{PerSource: 2})
	got := 0
	for _, source := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"} {
		got += count(1, func() bool { return r.Allow(stranger(c, source), c.Now) })
	}
	if got != 3 {
		t.Errorf("got %d lines for two networks, want 3", got)
	}
}

// TestBodies checks the limits for one caller and for all, and that released bytes can be
// reserved again.
func TestBodies(t *testing.T) {
	t.Parallel()
	const perCaller, callers = 32 << 20, 4 // the limit of one caller, and how many can reach it at once
	var b limit.Bodies
	reserve := func(caller string, n int64, want bool) {
		t.Helper()
		if got := b.Reserve(caller, n); got != want {
			t.Errorf("%s reserves %d bytes: got %v, want %v", caller, n, got, want)
		}
	}
	reserve("a", perCaller, true)
	reserve("a", 1, false)
	reserve("b", perCaller+1, false)
	for i := range callers - 1 {
		reserve(fmt.Sprint("c", i), perCaller, true)
	}
	reserve("b", 1, false)
	if got := b.Bytes(); got != callers*perCaller {
		t.Errorf("got %g bytes reserved, want %d", got, callers*perCaller)
	}
	b.Release("a", 1)
	reserve("b", 2, false)
	reserve("b", 1, true)
	reserve("a", 1, false) // a is below its limit, but the total is reached
	b.Release("b", 1)
	reserve("a", 1, true)
	b.Release("a", perCaller)
	for i := range callers - 1 {
		b.Release(fmt.Sprint("c", i), perCaller)
	}
	if got := b.Bytes(); got != 0 {
		t.Errorf("all released: got %g bytes reserved, want 0", got)
	}
	reserve("a", perCaller, true)
	if n := kms.MaxNativeBody; perCaller/n < 2 {
		t.Errorf("the limit of one caller is %d bytes, want room for two bodies of %d", perCaller, n)
	}
}

// TestBodiesOfNetworks checks the limits for requests whose callers are not authenticated yet.
func TestBodiesOfNetworks(t *testing.T) {
	t.Parallel()
	const largest = 512 << 10 // the largest query and body
	for name, tc := range map[string]struct {
		bodies      *limit.Bodies
		each, inAll int
	}{
		"known":    {limit.KnownBodies(), 32, 128},
		"stranger": {limit.StrangerBodies(), 8, 64},
	} {
		got := count(1000, func() bool { return tc.bodies.Reserve("192.0.2.1", largest) })
		if got != tc.each {
			t.Errorf("%s: one network reserved %d requests, want %d", name, got, tc.each)
		}
		for i := range 100 {
			got += count(1000, func() bool { return tc.bodies.Reserve(fmt.Sprint("10.0.0.", i), largest) })
		}
		if got != tc.inAll {
			t.Errorf("%s: all networks reserved %d requests, want %d", name, got, tc.inAll)
		}
	}
}

// TestLogLimitsDocumented compares the table of limits in docs/audit.md with DefaultLogLines.
func TestLogLimitsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	limits := limit.DefaultLogLines
	want := "| lines for refusals | of one authenticated caller | of one other source | of all other sources |\n|---|---|---|---|\n" +
		fmt.Sprintf("| at first | %s | %s | %s |\n", grouped(limits.PerCaller), grouped(limits.PerSource), grouped(limits.Total)) +
		fmt.Sprintf("| after that, per minute | %s | %s | %s |\n", grouped(limits.PerCallerPerMinute), grouped(limits.PerSourcePerMinute), grouped(limits.TotalPerMinute))
	if !strings.Contains(string(page), "\n"+want+"\n") {
		t.Errorf("docs/audit.md lacks the table\n%s", want)
	}
}

// grouped writes a number below a million as the documents do: with a comma before the last three
// digits.
func grouped(n float64) string {
	if n < 1000 {
		return fmt.Sprintf("%g", n)
	}
	return fmt.Sprintf("%d,%03d", int(n)/1000, int(n)%1000)
}
