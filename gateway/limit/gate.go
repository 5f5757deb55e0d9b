package limit

import (
	"container/list"
	"context"
	"net/netip"
	"sync"
	"time"
)

// GateTime is how long a request waits for a slot of a [Gate]. Time in which the process stands still does not
// count.
const GateTime = 2 * time.Second

// A Gate bounds how much of the machine's cores requests use before their callers are
// authenticated. Such a request holds a slot while it is parsed and its signature checked, and
// so does a TLS handshake while the server computes its part. The networks that are [Known] have
// separate slots, so that strangers do not delay them. The networks that wait take turns; the
// requests of one network wait in their order. The methods are safe for concurrent use. Create one
// with [NewGate].
type Gate struct{ unknown, known lane }

// NewGate returns a Gate for a machine with a number of cores. Strangers have half as many slots, and at
// least one. Known networks have as many slots as there are cores. One network has at most half of the
// slots of its kind, rounded up.
func NewGate(cores int) *Gate { return &Gate{unknown: newLane(max(1, cores/2)), known: newLane(cores)} }

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
	queues    map[netip.Prefix]*queue
	turns     list.List // of *queue, the next turn first; while a slot is free, each has a network with all its slots
}

// A queue is the requests of one network that wait for a slot. It exists while there are any.
type queue struct {
	network netip.Prefix
	waiting list.List // of chan struct{}, each closed when its request has its slot
	turn    *list.Element
}

func newLane(slots int) lane {
	return lane{slots: slots, perNetwork: (slots + 1) / 2,
		byNetwork: make(map[netip.Prefix]int), queues: make(map[netip.Prefix]*queue)}
}

func (l *lane) enter(ctx context.Context, network netip.Prefix) bool {
	l.mu.Lock()
	if l.takeLocked(network) {
		l.mu.Unlock()
		return true
	}
	entered := make(chan struct{})
	q := l.queueLocked(network)
	place := q.waiting.PushBack(entered)
	l.mu.Unlock()

	awaitTurn(ctx, entered)
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-entered: // at the last moment
		return true
	default:
		q.waiting.Remove(place)
		l.dropLocked(q)
		return false
	}
}

// awaitTurn waits until a request has its slot, GateTime is over or ctx is done.
func awaitTurn(ctx context.Context, entered <-chan struct{}) {
	for end := time.Now().Add(GateTime); ; end = time.Now().Add(GateTime) {
		timer := time.NewTimer(time.Until(end))
		select {
		case <-entered:
		case <-ctx.Done():
		case <-timer.C:
			// If the timer is late, the process stood still or had no processor, and no request could leave.
			if time.Since(end) > GateTime/4 {
				continue
			}
		}
		timer.Stop()
		return
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

// queueLocked returns the queue of a network. The turn of a new one comes last.
func (l *lane) queueLocked(network netip.Prefix) *queue {
	q, ok := l.queues[network]
	if !ok {
		q = &queue{network: network}
		q.turn = l.turns.PushBack(q)
		l.queues[network] = q
	}
	return q
}

// dropLocked forgets a queue in which nobody waits.
func (l *lane) dropLocked(q *queue) {
	if q.waiting.Len() == 0 {
		l.turns.Remove(q.turn)
		delete(l.queues, q.network)
	}
}

// leave frees a slot. It goes to the next network in turn that may have one, and there to the request
// that has waited longest.
func (l *lane) leave(network netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken--
	if l.byNetwork[network]--; l.byNetwork[network] == 0 {
		delete(l.byNetwork, network)
	}
	for turn := l.turns.Front(); turn != nil; turn = turn.Next() {
		q := turn.Value.(*queue)
		if l.takeLocked(q.network) {
			close(q.waiting.Remove(q.waiting.Front()).(chan struct{}))
			l.turns.MoveToBack(turn)
			l.dropLocked(q)
			return
		}
	}
}
