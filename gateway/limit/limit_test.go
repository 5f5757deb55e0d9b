package limit_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// A clock stands still until it is moved.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// count returns how many of n attempts succeed.
func count(n int, attempt func() bool) (taken int) {
	for range n {
		if attempt() {
			taken++
		}
	}
	return taken
}

// TestBuckets gives a second's worth at once, and then as many as the limit says; each
// user and each quota has a bucket, and so has the instance.
func TestBuckets(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	var b limit.Buckets
	check := func(what, user string, quota kms.Quota, perSecond float64, want int) {
		t.Helper()
		if got := count(100, func() bool { return b.Take(user, quota, perSecond, c.Now) }); got != want {
			t.Errorf("%s: %d are taken of 100, want %d", what, got, want)
		}
	}
	check("at first", "a", kms.QuotaKeyRead, 10, 10)
	check("of another user", "b", kms.QuotaKeyRead, 10, 10)
	check("of another quota", "a", kms.QuotaKeyWrite, 5, 5)
	check("of the instance", "", kms.QuotaKeyRead, 3, 3)
	check("at once again", "a", kms.QuotaKeyRead, 10, 0)
	c.now = c.now.Add(300 * time.Millisecond)
	check("after 300 ms", "a", kms.QuotaKeyRead, 10, 3)
	c.now = c.now.Add(time.Hour)
	check("after an hour", "a", kms.QuotaKeyRead, 10, 10)
	check("without a limit", "a", kms.QuotaKeyRead, 0, 100)
	check("with less than one a second", "c", kms.QuotaKeyRead, 0.5, 1)
	c.now = c.now.Add(time.Second)
	check("after half of the time for one", "c", kms.QuotaKeyRead, 0.5, 0)
	c.now = c.now.Add(time.Second)
	check("after all of it", "c", kms.QuotaKeyRead, 0.5, 1)
}

// TestBucketsChangedLimit: a limit that is changed holds at once, and gives nothing for
// the time before.
func TestBucketsChangedLimit(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	var b limit.Buckets
	take := func(perSecond float64) int {
		return count(100, func() bool { return b.Take("a", kms.QuotaKeyRead, perSecond, c.Now) })
	}
	if got := take(10); got != 10 {
		t.Fatalf("%d are taken", got)
	}
	if got := take(50); got != 0 {
		t.Errorf("raised, %d are taken at once", got)
	}
	c.now = c.now.Add(time.Second)
	if got := take(50); got != 50 {
		t.Errorf("raised, %d are taken after a second", got)
	}
	c.now = c.now.Add(time.Hour)
	if got := take(2); got != 2 {
		t.Errorf("lowered, %d are taken", got)
	}
}

// TestBucketsClockSetBack: a clock that is set back gives nothing twice, and the bucket
// goes on when the clock has caught up.
func TestBucketsClockSetBack(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	var b limit.Buckets
	take := func(n int) int {
		return count(n, func() bool { return b.Take("a", kms.QuotaKeyRead, 10, c.Now) })
	}
	if got := take(7); got != 7 {
		t.Fatalf("%d are taken", got)
	}
	for _, at := range []time.Duration{-time.Hour, -time.Minute, -2 * time.Hour} {
		c.now = noon.Add(at)
		if got := take(1); got != 1 { // only what is taken can set the bucket back
			t.Errorf("at %v: %d are taken", at, got)
		}
	}
	for _, at := range []time.Duration{-time.Hour, 0} {
		c.now = noon.Add(at)
		if got := take(100); got != 0 {
			t.Errorf("at %v: %d are taken", at, got)
		}
	}
	c.now = noon.Add(500 * time.Millisecond)
	if got := take(100); got != 5 {
		t.Errorf("when it has caught up: %d are taken", got)
	}
}

// TestBucketsForget checks that buckets which are full again leave memory, and that a user
// whose bucket is not full gets no new one.
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
		t.Errorf("a second later: got %d buckets, want 2: those of the slow and the new user", got)
	}
	if b.Take("slow", kms.QuotaKeyRead, 0.5, c.Now) {
		t.Error("the slow user got a token after one second, want none before two")
	}
}

// TestQuotas: a user's own limit goes before the configured one, and that before the
// documented one.
func TestQuotas(t *testing.T) {
	t.Parallel()
	q := limit.Quotas{Shared: map[string]float64{"key_read": 7}, DedicatedUser: 3, DedicatedInstance: 4}
	for name, tc := range map[string]struct {
		quota kms.Quota
		own   map[string]float64
		want  float64
	}{
		"documented":         {kms.QuotaAsymmetric, nil, 200},
		"configured":         {kms.QuotaKeyRead, nil, 7},
		"a user's own":       {kms.QuotaKeyRead, map[string]float64{"key_read": 9}, 9},
		"another own":        {kms.QuotaKeyRead, map[string]float64{"key_write": 9}, 7},
		"dedicated":          {kms.QuotaDedicatedUser, nil, 3},
		"dedicated own":      {kms.QuotaDedicatedUser, map[string]float64{"dedicated": 5}, 5},
		"dedicated instance": {kms.QuotaDedicatedInstance, nil, 4},
		"administration":     {kms.QuotaAdministration, nil, 0},
	} {
		if got := q.PerSecond(tc.quota, tc.own); got != tc.want {
			t.Errorf("%s: %g, want %g", name, got, tc.want)
		}
	}
	if err := q.Check(); err != nil {
		t.Error(err)
	}
	for _, wrong := range []map[string]float64{{"nothing": 1}, {"key_read": 0}, {"key_read": -1}, {"dedicated": 1}, {"administration": 1}} {
		if (limit.Quotas{Shared: wrong}).Check() == nil {
			t.Errorf("%v is taken", wrong)
		}
	}
	names := limit.Names()
	if len(names) != 9 || slices.Contains(names, kms.QuotaAdministration) {
		t.Errorf("the quotas are %q", names)
	}
	for _, name := range names {
		if limit.IsUserQuota(name) == (name == kms.QuotaDedicatedInstance) {
			t.Errorf("%s: a user's: %v", name, limit.IsUserQuota(name))
		}
	}
}

// TestUnauthenticated gives each source and all together so many lines, and counts the
// rest.
func TestUnauthenticated(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	u := limit.NewUnauthenticated(limit.LogLines{PerSource: 3, PerSourcePerMinute: 2, Total: 10, TotalPerMinute: 6})
	check := func(what, source string, n, want int) {
		t.Helper()
		if got := count(n, func() bool { return u.Allow(source, c.Now) }); got != want {
			t.Errorf("%s: %d lines for %d refusals, want %d", what, got, n, want)
		}
	}
	suppressed := func(want int, wantLast string) {
		t.Helper()
		if n, last := u.TakeSuppressed(); n != want || last != wantLast {
			t.Errorf("%d have no line, the last of %q, want %d and %q", n, last, want, wantLast)
		}
	}
	check("at first", "192.0.2.1", 5, 3)
	check("another", "192.0.2.2", 4, 3)
	suppressed(3, "192.0.2.2")
	suppressed(0, "192.0.2.2")
	check("a third", "192.0.2.3", 3, 3)
	check("the last of all", "192.0.2.4", 3, 1)
	suppressed(2, "192.0.2.4")
	u.CountAgain(2)
	u.Count("192.0.2.5")
	suppressed(3, "192.0.2.5")
	c.now = c.now.Add(30 * time.Second)
	check("after half a minute", "192.0.2.1", 3, 1)
	check("another with all its lines", "192.0.2.9", 3, 2) // of those for all
	suppressed(2+1, "192.0.2.9")
	c.now = c.now.Add(time.Hour)
	check("after an hour", "192.0.2.1", 2, 2)
	c.now = c.now.Add(-time.Minute)
	check("the clock set back", "192.0.2.1", 1, 1)
	c.now = c.now.Add(time.Minute)
	check("the clock as it was", "192.0.2.1", 2, 0)
}

// TestUnauthenticatedDefaults: zero fields are those of DefaultLogLines.
func TestUnauthenticatedDefaults(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	u := limit.NewUnauthenticated(limit.LogLines{PerSource: 2000})
	if got := count(1500, func() bool { return u.Allow("192.0.2.1", c.Now) }); got != int(limit.DefaultLogLines.Total) {
		t.Errorf("%d lines for all", got)
	}
	u = limit.NewUnauthenticated(limit.LogLines{})
	if got := count(1500, func() bool { return u.Allow("192.0.2.1", c.Now) }); got != int(limit.DefaultLogLines.PerSource) {
		t.Errorf("%d lines for one source", got)
	}
}

// TestSources tells so many sources apart and lets the rest share one limit, until those
// whose lines are all there again are forgotten.
func TestSources(t *testing.T) {
	t.Parallel()
	c := &clock{noon}
	u := limit.NewUnauthenticated(limit.LogLines{PerSource: 1, PerSourcePerMinute: 1, Total: 1e6})
	source := func(i int) string { return fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255) }
	for i := range limit.MaxSources {
		if !u.Allow(source(i), c.Now) {
			t.Fatalf("source %d has no line", i)
		}
	}
	if got := count(10, func() bool { return u.Allow(source(limit.MaxSources), c.Now) }); got != 1 {
		t.Errorf("one source more has %d lines", got)
	}
	if u.Allow(source(limit.MaxSources+1), c.Now) {
		t.Error("two sources more have a line each")
	}
	if n := u.Sources(); n != limit.MaxSources+1 {
		t.Errorf("%d sources are told apart", n)
	}
	c.now = c.now.Add(time.Minute)
	if !u.Allow(source(limit.MaxSources+2), c.Now) || u.Sources() != 1 {
		t.Errorf("a minute later %d sources are told apart", u.Sources())
	}
}

// TestNetworkOf counts an IPv4 address as one however it is written, and an IPv6 /64.
func TestNetworkOf(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8::1": "2001:db8::/64", "2001:db8::ffff:1:2:3": "2001:db8::/64", "2001:db8:0:1::1": "2001:db8:0:1::/64",
		"fe80::1%eth0": "fe80::/64", "@": "@", "": "",
	} {
		if got := limit.NetworkOf(source); got != want {
			t.Errorf("%q: %q, want %q", source, got, want)
		}
	}
	c := &clock{noon}
	u := limit.NewUnauthenticated(limit.LogLines{PerSource: 2})
	got := 0
	for _, source := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"} {
		got += count(1, func() bool { return u.Allow(source, c.Now) })
	}
	if got != 3 {
		t.Errorf("%d lines", got)
	}
}

// TestBodies lets one caller and all together have so many bytes, until they are given
// back.
func TestBodies(t *testing.T) {
	t.Parallel()
	const each, callers = 32 << 20, 4 // what one may have, and how many may have that at once
	var b limit.Bodies
	take := func(who string, n int64, want bool) {
		t.Helper()
		if got := b.Take(who, n); got != want {
			t.Errorf("%s takes %d: %v", who, n, got)
		}
	}
	take("a", each, true)
	take("a", 1, false)
	take("b", each+1, false)
	for i := range callers - 1 {
		take(fmt.Sprint("c", i), each, true)
	}
	take("b", 1, false)
	if got := b.Bytes(); got != callers*each {
		t.Errorf("%g bytes", got)
	}
	b.Give("a", 1)
	take("b", 2, false)
	take("b", 1, true)
	take("a", 1, false) // there is room for a, and none for all
	b.Give("b", 1)
	take("a", 1, true)
	b.Give("a", each)
	for i := range callers - 1 {
		b.Give(fmt.Sprint("c", i), each)
	}
	if got := b.Bytes(); got != 0 {
		t.Errorf("%g bytes when all are given back", got)
	}
	take("a", each, true)
	if n := kms.MaxNativeBody; each/n < 2 {
		t.Errorf("one caller cannot send two bodies of %d at once", n)
	}
}
