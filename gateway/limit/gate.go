package limit

import (
	"container/list"
	"context"
	"net/netip"
	"sync"
	"time"
)

// GateTime is how long a request waits for a slot of a [Gate].
const GateTime = 2 * time.Second

// A Gate bounds how much of the machine's cores requests use before their callers are
// authenticated. Such a request holds a slot while it is parsed and its signature checked, and
// so does a TLS handshake while the server computes its part.
// The networks that are [Known] have separate slots, so that strangers do not delay them.
// The networks that wait take turns; the requests of one network wait in their order. The methods
// are safe for concurrent use. Create one with [NewGate].
type Gate struct{ unknown, known lane }

// NewGate returns a Gate for a machine with a number of cores. Strangers have half as many
// slots, and at least one. One network of theirs has at most half of those, rounded up. Known
// networks have as many slots as there are cores.
func NewGate(cores int) *Gate {
	slots := max(1, cores/2)
	return &Gate{unknown: newLane(slots, (slots+1)/2), known: newLane(cores, cores)}
}

// Enter takes a slot for a request from a network. If none is free, it waits for one until
// GateTime is over or ctx is done. It reports whether it took a slot. If it did, the caller
// must call Leave with the same arguments.
func (g *Gate) Enter(ctx context.Context, network netip.Prefix, known bool) bool {
	return g.lane(known).enter(ctx, network)
}

// Leave frees a slot that Enter took.
func (g *Gate) Leave(network netip.Prefix, known bool) { g.lane(known).leave(network) }

func (g *Gate) lane(known bool) *lane {
	if known {
		return &g.known
	}
	return &g.unknown
}

// A lane is slots that some networks share.
type lane struct {
	slots, perNetwork int

	mu        sync.Mutex
	taken     int                  // guarded by mu, like the fields below
	byNetwork map[netip.Prefix]int // slots taken
	waiting   *list.List           // of *waiter; while a slot is free, each has a network with all its slots

	turn  uint64                  // the number of slots that waiters got
	turns map[netip.Prefix]uint64 // the last turn of each network; empty while nobody waits
}

// A waiter is a request that waits for a slot.
type waiter struct {
	network netip.Prefix
	entered chan struct{} // closed when the request has its slot
}

func newLane(slots, perNetwork int) lane {
	return lane{slots: slots, perNetwork: perNetwork, byNetwork: make(map[netip.Prefix]int), waiting: list.New(),
		turns: make(map[netip.Prefix]uint64)}
}

func (l *lane) enter(ctx context.Context, network netip.Prefix) bool {
	l.mu.Lock()
	if l.takeLocked(network) {
		l.mu.Unlock()
		return true
	}
	w := &waiter{network, make(chan struct{})}
	place := l.waiting.PushBack(w)
	l.mu.Unlock()

	timer := time.NewTimer(GateTime)
	defer timer.Stop()
	select {
	case <-w.entered:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-w.entered: // at the last moment
		return true
	default:
		l.waiting.Remove(place)
		return false
	}
}

// takeLocked takes a slot if one is free for the network.
func (l *lane) takeLocked(network netip.Prefix) bool {
	if l.taken >= l.slots || l.byNetwork[network] >= l.perNetwork {
		return false
	}
	l.taken++
	l.byNetwork[network]++
	return true
}

// leave frees a slot. The slot goes to the network whose last turn is longest ago, among those below
// their limit. Within a network, it goes to the oldest request.
func (l *lane) leave(network netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken--
	if l.byNetwork[network]--; l.byNetwork[network] == 0 {
		delete(l.byNetwork, network)
	}
	var next *list.Element
	for place := l.waiting.Front(); place != nil; place = place.Next() {
		network := place.Value.(*waiter).network
		if l.byNetwork[network] < l.perNetwork && (next == nil || l.turns[network] < l.turns[next.Value.(*waiter).network]) {
			next = place
		}
	}
	if next == nil {
		return
	}
	w := l.waiting.Remove(next).(*waiter)
	l.takeLocked(w.network)
	l.turn++
	l.turns[w.network] = l.turn
	if l.waiting.Len() == 0 {
		clear(l.turns)
	}
	close(w.entered)
}
