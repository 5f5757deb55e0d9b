package limit

import (
	"cmp"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// LogLines bounds the audit lines of callers who cannot authenticate: how many there can
// be at once, and how many a minute from then on, for one source and in total. Zero fields
// are taken from [DefaultLogLines], which allow two lines a second in the long run. An
// ordinary line has some 400 bytes, which makes 70 MB a day. An attacker can inflate a
// line to a few KB; echoed input is truncated.
type LogLines struct {
	PerSource, PerSourcePerMinute float64
	Total, TotalPerMinute         float64
}

// DefaultLogLines are the limits that apply unless others are configured.
var DefaultLogLines = LogLines{PerSource: 100, PerSourcePerMinute: 6, Total: 1000, TotalPerMinute: 120}

func (l LogLines) withDefaults() LogLines {
	return LogLines{cmp.Or(l.PerSource, DefaultLogLines.PerSource), cmp.Or(l.PerSourcePerMinute, DefaultLogLines.PerSourcePerMinute),
		cmp.Or(l.Total, DefaultLogLines.Total), cmp.Or(l.TotalPerMinute, DefaultLogLines.TotalPerMinute)}
}

// MaxSources is how many sources are told apart. Further sources share one limit.
const MaxSources = 4096

// Unauthenticated limits the audit lines of callers who cannot authenticate to [LogLines],
// and counts the refusals without a line. Its methods may be called from any goroutine.
// Use [NewUnauthenticated].
type Unauthenticated struct {
	lines LogLines

	mu         sync.Mutex
	clock      clock // guarded by mu, like all below
	total      *rate.Limiter
	bySource   map[string]*rate.Limiter // by network; "" for those too many
	swept      time.Time                // when sources were last forgotten
	suppressed int
	last       string // the source of the last one suppressed
}

// NewUnauthenticated returns an Unauthenticated with all its lines.
func NewUnauthenticated(lines LogLines) *Unauthenticated {
	return &Unauthenticated{lines: lines.withDefaults()}
}

// Allow reports whether a refusal may have an audit line. If not, Allow counts it. Source
// is the caller's address.
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
		forget(u.bySource, &u.swept, now)
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

// Count counts a refusal whose line was allowed and could not be written.
func (u *Unauthenticated) Count(source string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.countLocked(source)
}

func (u *Unauthenticated) countLocked(source string) {
	u.suppressed++
	u.last = source
}

// TakeSuppressed returns how many refusals without a line were counted since the last
// call, and the source of the last of them. The caller writes one line for all of them.
func (u *Unauthenticated) TakeSuppressed() (n int, last string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n = u.suppressed
	u.suppressed = 0
	return n, u.last
}

// Sources returns how many sources are told apart at the moment.
func (u *Unauthenticated) Sources() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.bySource)
}

// CountAgain counts n refusals again, after the one line for all of them was not written.
func (u *Unauthenticated) CountAgain(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.suppressed += n
}

// NetworkOf returns the network that an address is counted under. An IPv6 host has as many
// addresses as it likes, so a /64 counts as one. Text that is not an address is returned
// as it is.
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
