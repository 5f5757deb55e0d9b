package gateway

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A Budget bounds the audit lines of callers who could not say who they are, in
// lines: how many at once, and how many a minute from then on. By default that is
// two lines a second in the long run. An ordinary line of theirs has some 400
// bytes, which makes 70 MB a day; one that is made to be long has a few KB, since
// what it echoes is cut. Zero fields are taken from [DefaultBudget].
type Budget struct {
	PerSource, PerSourceAndMinute float64
	InAll, InAllPerMinute         float64
}

// DefaultBudget is what holds where nothing else is said.
var DefaultBudget = Budget{PerSource: 100, PerSourceAndMinute: 6, InAll: 1000, InAllPerMinute: 120}

func (b Budget) withDefaults() Budget {
	for field, otherwise := range map[*float64]float64{&b.PerSource: DefaultBudget.PerSource, &b.PerSourceAndMinute: DefaultBudget.PerSourceAndMinute,
		&b.InAll: DefaultBudget.InAll, &b.InAllPerMinute: DefaultBudget.InAllPerMinute} {
		if *field == 0 {
			*field = otherwise
		}
	}
	return b
}

// maxSources bounds how many sources are told apart. Further ones share a budget.
const maxSources = 4096

// strangers keeps to the budget, and counts what has no line.
type strangers struct {
	budget Budget

	mu         sync.Mutex
	clock      clock // guarded by mu, like all below
	inAll      *rate.Limiter
	bySource   map[string]*rate.Limiter // by network; "" for those too many
	swept      time.Time                // when sources were last forgotten
	suppressed int
	last       string // the source of the last one suppressed
}

// allow reports whether a refusal of a source may have a line of its own, and
// counts it if not.
func (s *strangers) allow(source string, clock func() time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.read(clock)
	if s.inAll == nil {
		s.inAll = rate.NewLimiter(rate.Limit(s.budget.InAllPerMinute/60), int(s.budget.InAll))
		s.bySource = make(map[string]*rate.Limiter)
	}
	if s.limiter(networkOf(source), now).AllowN(now, 1) && s.inAll.AllowN(now, 1) {
		return true
	}
	s.countLocked(source)
	return false
}

func (s *strangers) limiter(network string, now time.Time) *rate.Limiter {
	l, ok := s.bySource[network]
	if !ok && len(s.bySource) >= maxSources {
		s.forget(now)
	}
	if !ok && len(s.bySource) >= maxSources {
		network = ""
		l, ok = s.bySource[network]
	}
	if !ok {
		l = rate.NewLimiter(rate.Limit(s.budget.PerSourceAndMinute/60), int(s.budget.PerSource))
		s.bySource[network] = l
	}
	return l
}

// forget drops those whose budget is whole again: they are as good as new ones.
func (s *strangers) forget(now time.Time) {
	if now.Sub(s.swept) < time.Second {
		return // it takes 0.2 ms
	}
	s.swept = now
	for network, l := range s.bySource {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(s.bySource, network)
		}
	}
}

func (s *strangers) count(source string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countLocked(source)
}

func (s *strangers) countLocked(source string) {
	s.suppressed++
	s.last = source
}

// tell writes the one line that stands for those that have none.
func (s *strangers) tell(log *audit.Log, now time.Time) {
	s.mu.Lock()
	n, last := s.suppressed, s.last
	if log.Err() != nil {
		n = 0 // later
	}
	s.suppressed -= n
	s.mu.Unlock()
	if n > 0 {
		log.OfferSuppressed(now.UTC(), n, last, func() { s.countAgain(n) })
	}
}

// countAgain is for a line that was to stand for n and was not written.
func (s *strangers) countAgain(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suppressed += n
}

// networkOf gives the network that an address is counted under. An IPv6 host has
// as many addresses as it likes, so all of a /64 is one.
func networkOf(source string) string {
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
