package limit

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// LogLines limits the audit lines about callers who cannot authenticate: how many there can
// be at once, and how many per minute after that, for one source and in total. Zero fields
// have the value of [DefaultLogLines], which allows two lines per second in the long run. An
// ordinary line has some 400 bytes, so that makes 70 MB a day. An attacker can inflate a
// line to a few KB; echoed input is truncated.
type LogLines struct {
	PerSource, PerSourcePerMinute float64
	Total, TotalPerMinute         float64
}

// DefaultLogLines is the limits that apply unless others are configured.
var DefaultLogLines = LogLines{PerSource: 100, PerSourcePerMinute: 6, Total: 1000, TotalPerMinute: 120}

func (l LogLines) withDefaults() LogLines {
	return LogLines{
		PerSource:          cmp.Or(l.PerSource, DefaultLogLines.PerSource),
		PerSourcePerMinute: cmp.Or(l.PerSourcePerMinute, DefaultLogLines.PerSourcePerMinute),
		Total:              cmp.Or(l.Total, DefaultLogLines.Total),
		TotalPerMinute:     cmp.Or(l.TotalPerMinute, DefaultLogLines.TotalPerMinute),
	}
}

// MaxSources is the number of sources that have a limit each. Further sources share one.
const MaxSources = 4096

// Unauthenticated limits the audit lines about callers who cannot authenticate to
// [LogLines], and counts the refusals without a line. The methods are safe for concurrent
// use. Create one with [NewUnauthenticated].
type Unauthenticated struct {
	lines LogLines

	mu         sync.Mutex
	clock      clock // guarded by mu, like the fields below
	total      *rate.Limiter
	bySource   map[string]*rate.Limiter // by network; "" is the limit that sources beyond MaxSources share
	lastSweep  time.Time                // when sources were last forgotten
	suppressed int                      // refusals without a line since the last TakeSuppressed
	lastSource string                   // the source of the last of these
}

// NewUnauthenticated returns an Unauthenticated with the limits lines, and none used so far.
func NewUnauthenticated(lines LogLines) *Unauthenticated {
	return &Unauthenticated{lines: lines.withDefaults()}
}

// Allow reports whether the refusal of a caller may have an audit line. If not, Allow counts
// the refusal. source is the caller's address.
func (u *Unauthenticated) Allow(source string, clock func() time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.clock.read(clock)
	if u.total == nil {
		u.total = rate.NewLimiter(rate.Limit(u.lines.TotalPerMinute/60), int(u.lines.Total))
		u.bySource = make(map[string]*rate.Limiter)
	}
	if u.limiter(NetworkOf(source), now).AllowN(now, 1) && u.total.AllowN(now, 1) {
		return true
	}
	u.countLocked(source)
	return false
}

func (u *Unauthenticated) limiter(network string, now time.Time) *rate.Limiter {
	l, ok := u.bySource[network]
	if !ok && len(u.bySource) >= MaxSources {
		forget(u.bySource, &u.lastSweep, now)
	}
	if !ok && len(u.bySource) >= MaxSources {
		network = ""
		l, ok = u.bySource[network]
	}
	if !ok {
		l = rate.NewLimiter(rate.Limit(u.lines.PerSourcePerMinute/60), int(u.lines.PerSource))
		u.bySource[network] = l
	}
	return l
}

// Count counts a refusal whose line was allowed but could not be written.
func (u *Unauthenticated) Count(source string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.countLocked(source)
}

func (u *Unauthenticated) countLocked(source string) {
	u.suppressed++
	u.lastSource = source
}

// TakeSuppressed returns how many refusals without a line were counted since the last call,
// and the source of the latest. The caller writes one line for all of them.
func (u *Unauthenticated) TakeSuppressed() (n int, lastSource string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n = u.suppressed
	u.suppressed = 0
	return n, u.lastSource
}

// Sources returns how many sources have a limit at the moment.
func (u *Unauthenticated) Sources() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.bySource)
}

// CountAgain counts n refusals again, if the line for all of them could not be written.
func (u *Unauthenticated) CountAgain(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.suppressed += n
}

// NetworkOf returns the network that an address counts against. An IPv6 host has as many
// addresses as it likes, so a /64 counts as one. Text that is not an address is returned
// unchanged.
func NetworkOf(source string) string {
	address, err := netip.ParseAddr(source)
	if err != nil {
		return source
	}
	address = address.Unmap().WithZone("")
	if address.Is6() {
		if prefix, err := address.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return address.String()
}
