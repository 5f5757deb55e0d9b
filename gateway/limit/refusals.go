package limit

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// LogLines limits the audit lines about refusals: how many there can be at once, and how many
// per minute after that. Zero fields have the value of [DefaultLogLines]. An ordinary line has
// some 400 bytes. An attacker can inflate a line to a few KB; echoed input is truncated.
type LogLines struct {
	// PerSource limits the lines about callers who cannot authenticate from one source, and
	// Total those from all sources. The defaults allow two lines per second in the long run,
	// which makes 70 MB a day.
	PerSource, PerSourcePerMinute float64
	Total, TotalPerMinute         float64

	// PerCaller limits the lines about one authenticated caller. With the defaults, people and
	// programs that make single mistakes have a line for each. A program that repeats its
	// mistake without pause adds one line per second, which makes 35 MB a day.
	PerCaller, PerCallerPerMinute float64
}

// DefaultLogLines is the limits that apply unless others are configured.
var DefaultLogLines = LogLines{
	PerSource: 100, PerSourcePerMinute: 6,
	Total: 1000, TotalPerMinute: 120,
	PerCaller: 60, PerCallerPerMinute: 60,
}

func (l LogLines) withDefaults() LogLines {
	return LogLines{
		PerSource:          cmp.Or(l.PerSource, DefaultLogLines.PerSource),
		PerSourcePerMinute: cmp.Or(l.PerSourcePerMinute, DefaultLogLines.PerSourcePerMinute),
		Total:              cmp.Or(l.Total, DefaultLogLines.Total),
		TotalPerMinute:     cmp.Or(l.TotalPerMinute, DefaultLogLines.TotalPerMinute),
		PerCaller:          cmp.Or(l.PerCaller, DefaultLogLines.PerCaller),
		PerCallerPerMinute: cmp.Or(l.PerCallerPerMinute, DefaultLogLines.PerCallerPerMinute),
	}
}

const (
	// MaxSources is the number of sources that have a limit each, and of authenticated callers
	// that do. Further ones share one limit.
	MaxSources = 4096

	// MaxCounted is the number of callers and codes that are counted apart. For further ones,
	// the callers with the same code are counted together.
	MaxCounted = 4096
)

// A Refusal is a request that the gateway refused.
type Refusal struct {
	Time      time.Time
	Source    string // the caller's address
	Principal string // the caller's name; empty if the caller could not authenticate
	Code      string // of the API's error
}

// Counted is refusals without a separate line, which share one. If Principal and Code are empty,
// the callers could not authenticate. Otherwise Code is the code of all of them, and
// Principal is their caller, or empty if they have several.
type Counted struct {
	Principal, Code string
	N               int
	First, Last     time.Time // when the first and the last were refused
	Source          string    // of the last
}

// Refusals limits the audit lines about refusals to [LogLines], and counts the refusals without
// a line. The methods are safe for concurrent use. Create one with [NewRefusals].
type Refusals struct {
	mu      sync.Mutex
	clock   clock // guarded by mu, like the fields below
	total   *rate.Limiter
	sources lineLimits // by network
	callers lineLimits // by the principal's name
	counted map[subject]Counted

	reserved map[string]int // lines that requests under way may need, by the key of callers.limits
}

// A subject is what refusals have in common that are counted together.
type subject struct{ principal, code string }

// NewRefusals returns a Refusals with the limits lines, and none used so far.
func NewRefusals(lines LogLines) *Refusals {
	lines = lines.withDefaults()
	return &Refusals{
		total:   newLineLimit(lines.Total, lines.TotalPerMinute),
		sources: lineLimits{atOnce: lines.PerSource, perMinute: lines.PerSourcePerMinute},
		callers: lineLimits{atOnce: lines.PerCaller, perMinute: lines.PerCallerPerMinute},
		counted: make(map[subject]Counted),

		reserved: make(map[string]int),
	}
}

// Allow reports whether a refusal may have an audit line. If not, Allow counts the refusal.
func (r *Refusals) Allow(refusal Refusal, clock func() time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.read(clock)
	var allowed bool
	if refusal.Principal != "" {
		allowed = r.callers.take(refusal.Principal, now)
	} else {
		allowed = r.sources.take(NetworkOf(refusal.Source), now) && r.total.AllowN(now, 1)
	}
	if !allowed {
		r.add(refusal.counted())
	}
	return allowed
}

// A Reservation is a line for a refusal that a caller may need. The zero value reserves nothing.
type Reservation struct {
	caller string // in callers.limits
	held   bool
}

// Reserve reserves a line for a refusal of an authenticated caller, if the caller has one that no other
// request has reserved. The caller of Reserve must call Release.
func (r *Refusals) Reserve(principal string, clock func() time.Time) (reserved Reservation, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	limit, found := r.callers.limits[principal]
	if !found && len(r.callers.limits) >= MaxSources {
		principal = "" // the limit that further callers share
		limit, found = r.callers.limits[principal]
	}
	lines := r.callers.atOnce
	if found {
		lines = limit.TokensAt(r.clock.read(clock))
	}
	if lines-float64(r.reserved[principal]) < 1 {
		return Reservation{}, false
	}
	r.reserved[principal]++
	return Reservation{principal, true}, true
}

// Release ends a reservation. If it was needed, its caller has one line less.
func (r *Refusals) Release(reserved Reservation, needed bool, clock func() time.Time) {
	if !reserved.held {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reserved[reserved.caller]--; r.reserved[reserved.caller] == 0 {
		delete(r.reserved, reserved.caller)
	}
	if needed {
		r.callers.take(reserved.caller, r.clock.read(clock))
	}
}

// Count counts a refusal that has no line for another reason.
func (r *Refusals) Count(refusal Refusal) { r.CountAgain(refusal.counted()) }

// CountAgain counts refusals again, if the line for all of them could not be written.
func (r *Refusals) CountAgain(c Counted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(c)
}

// counted returns the refusal as one that shares its line with others like it.
func (f Refusal) counted() Counted {
	c := Counted{N: 1, First: f.Time, Last: f.Time, Source: f.Source}
	if f.Principal != "" {
		c.Principal, c.Code = f.Principal, f.Code
	}
	return c
}

func (r *Refusals) add(c Counted) {
	id := subject{c.Principal, c.Code}
	if _, found := r.counted[id]; !found && len(r.counted) >= MaxCounted {
		id.principal, c.Principal = "", ""
	}
	if have, found := r.counted[id]; found {
		c.N += have.N
		if have.First.Before(c.First) {
			c.First = have.First
		}
		if have.Last.After(c.Last) {
			c.Last, c.Source = have.Last, have.Source
		}
	}
	r.counted[id] = c
}

// TakeCounted returns the refusals that were counted since the last call, ordered by caller and
// code. The caller writes one line for each element.
func (r *Refusals) TakeCounted() []Counted {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.SortedFunc(maps.Values(r.counted), func(a, b Counted) int {
		return cmp.Or(strings.Compare(a.Principal, b.Principal), strings.Compare(a.Code, b.Code))
	})
	clear(r.counted)
	return all
}

// Sources returns how many sources have a limit at the moment.
func (r *Refusals) Sources() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sources.limits)
}

// lineLimits limits the lines about each of many callers.
type lineLimits struct {
	atOnce, perMinute float64
	limits            map[string]*rate.Limiter // by caller; "" is the limit that callers beyond MaxSources share
	lastSweep         time.Time                // when callers were last forgotten
}

func newLineLimit(atOnce, perMinute float64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perMinute/60), int(atOnce))
}

// take takes one of a caller's lines, and reports whether there was one.
func (l *lineLimits) take(caller string, now time.Time) bool {
	limit, found := l.limits[caller]
	if !found && len(l.limits) >= MaxSources {
		forget(l.limits, &l.lastSweep, now)
	}
	if !found && len(l.limits) >= MaxSources {
		caller = ""
		limit, found = l.limits[caller]
	}
	if !found {
		limit = newLineLimit(l.atOnce, l.perMinute)
		if l.limits == nil {
			l.limits = make(map[string]*rate.Limiter)
		}
		l.limits[caller] = limit
	}
	return limit.AllowN(now, 1)
}

// NetworkOf returns the network that an address counts against. An IPv6 host has as many
// addresses as it likes, so a /64 counts as one. Text that is not an address is returned
// unchanged.
func NetworkOf(source string) string {
	switch prefix := PrefixOf(source); {
	case !prefix.IsValid():
		return source
	case prefix.IsSingleIP():
		return prefix.Addr().String()
	default:
		return prefix.String()
	}
}

// PrefixOf returns the network that an address counts against, as NetworkOf does: an IPv4
// address or an IPv6 /64. For text that is not an address it returns the zero Prefix.
func PrefixOf(source string) netip.Prefix {
	address, err := netip.ParseAddr(source)
	if err != nil {
		return netip.Prefix{}
	}
	address = address.Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, _ := address.Prefix(bits) // the address is valid, and has as many bits
	return prefix
}
