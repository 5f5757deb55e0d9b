package front

import (
	"cmp"
	"container/list"
	"context"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/kmsgate/kmsgate/gateway/limit"
)

// A Process counts the connections to all listeners of this process. It allows half as many
// as the process may have files open: one signature attempted without a free file descriptor
// breaks SoftHSM's token for the rest of the process (measured). It is safe for concurrent use.
//
// A source is an IPv4 address or an IPv6 /64. It is known if [limit.Known] has it: a caller
// authenticated from it within the last ten minutes.
type Process struct {
	Logger *slog.Logger // nil means slog.Default()

	known *limit.Known // nil: no source is known
	gate  *limit.Gate  // nil: TLS handshakes do not wait

	mu              sync.Mutex
	room            room      // guarded by mu, like the fields below
	unauthenticated list.List // of *place: the connections that have not authenticated, the oldest first
	large           largeHeaders
	counts          Counts // without Open and Unauthenticated
}

// Counts are numbers of connections, and of requests that no handler saw.
type Counts struct {
	Open            int // connections that are open
	Unauthenticated int // those of them that have not authenticated

	// These count since the process began.
	Evicted      int // connections closed for a new one
	Full         int // new connections closed, because none of the others may be closed for them
	SourceFull   int // the same, where the source has its share
	Handshakes   int // connections closed because their TLS handshake failed
	Busy         int // connections closed because their TLS handshake got no slot of the gate
	LargeHeaders int // connections closed because too many others were sending a large header
	Records      int // connections closed because they sent too many small TLS records
	Malformed    int // requests that net/http answered itself, because they are not HTTP or too large
}

// NewProcess returns a Process without connections. The limit is half of RLIMIT_NOFILE at
// the time of the call. If known is nil, no source is known. TLS handshakes wait for a slot of gate
// before they compute, unless it is nil.
func NewProcess(known *limit.Known, gate *limit.Gate) *Process {
	p := &Process{known: known, gate: gate, large: largeHeaders{bySource: make(map[netip.Prefix]int)}}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur > math.MaxInt32 {
		p.room.limit = math.MaxInt32
	} else {
		p.room.limit = int(files.Cur / 2)
	}
	return p
}

// Counts returns the current numbers.
func (p *Process) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := p.counts
	counts.Open, counts.Unauthenticated = p.room.open, p.unauthenticated.Len()
	return counts
}

// count adds one to a field of p's counts.
func (p *Process) count(field func(*Counts) *int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*field(&p.counts)++
}

// logPanic logs value, recovered from a panic while serving a connection, with the stack.
func (p *Process) logPanic(value any) {
	cmp.Or(p.Logger, slog.Default()).Error("serving a connection panicked; the connection was closed",
		"err", value, "stack", string(debug.Stack()))
}

// A room is where a limited number of connections fits.
type room struct {
	limit   int
	open    int
	unknown int // those of them from unknown sources that have not authenticated
}

// admits reports whether one more connection fits. A quarter is kept for known sources.
func (r *room) admits(known bool) bool {
	return r.open < r.limit && (known || r.unknown < r.limit-r.limit/4)
}

func (r *room) add(n int, unknown bool) {
	r.open += n
	if unknown {
		r.unknown += n
	}
}

// admit assigns a place to a new connection to l. To make room, it takes the places of the oldest
// connections that have not authenticated, and returns these connections; the caller must close
// them. It returns no place if there is no room: connections that have authenticated keep their
// places, and so do those from known sources if the new one comes from an unknown one.
func (p *Process) admit(l *listener, conn net.Conn) (admitted *place, evicted []net.Conn) {
	c := &place{process: p, listener: l, source: sourceOf(conn), conn: conn}
	c.open, c.close = context.WithCancel(context.Background())
	known := p.known != nil && p.known.Has(c.source)
	c.unknown = !known
	p.mu.Lock()
	defer p.mu.Unlock()
	evict := func(from func(*place) bool) bool {
		old := p.oldest(from)
		if old == nil {
			return false
		}
		p.remove(old)
		old.evicted = true
		p.counts.Evicted++
		evicted = append(evicted, old.conn)
		return true
	}
	makeRoom := func(counts func(*place) bool) bool {
		return evict(func(old *place) bool { return old.unknown && counts(old) }) || known && evict(counts)
	}
	here := func(old *place) bool { return old.listener == l }
	anywhere := func(*place) bool { return true }
	if l.bySource[c.source] >= l.limits.PerSource &&
		!evict(func(old *place) bool { return old.listener == l && old.source == c.source }) {
		p.counts.SourceFull++
		return nil, evicted
	}
	if !l.room.admits(known) && !makeRoom(here) || !p.room.admits(known) && !makeRoom(anywhere) {
		p.counts.Full++
		return nil, evicted
	}
	p.add(c, 1)
	c.element = p.unauthenticated.PushBack(c)
	return c, evicted
}

// oldest returns the oldest connection that has not authenticated and for which from returns
// true, or nil. The caller holds mu.
func (p *Process) oldest(from func(*place) bool) *place {
	for e := p.unauthenticated.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*place); from(c) {
			return c
		}
	}
	return nil
}

// add counts n connections like c. The caller holds mu.
func (p *Process) add(c *place, n int) {
	p.room.add(n, c.unknown)
	c.listener.room.add(n, c.unknown)
	if c.listener.bySource[c.source] += n; c.listener.bySource[c.source] == 0 {
		delete(c.listener.bySource, c.source)
	}
}

// remove takes c's place away, unless that was done before. The caller holds mu.
func (p *Process) remove(c *place) {
	if c.left {
		return
	}
	c.left = true
	c.close()
	p.add(c, -1)
	p.large.release(c)
	if c.element != nil {
		p.unauthenticated.Remove(c.element)
		c.element = nil
	}
}

// sourceOf returns the source of a connection. Connections whose address is not an IP address
// share one source.
func sourceOf(conn net.Conn) netip.Prefix {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{}
	}
	return limit.PrefixOf(host)
}
