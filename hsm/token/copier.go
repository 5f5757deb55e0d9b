package token

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// A copier keeps session copies of frequently used keys. One goroutine, run, owns the
// session that contains the copies.
type copier struct {
	active atomic.Bool  // whether copies are made
	wanted chan *object // keys used often enough; if the channel is full, the key asks again later
	wake   chan struct{}

	mu      sync.Mutex
	retired []retiredCopy // guarded by mu

	// Used only by the goroutine run.
	session  *session
	kept     map[*object]*sessionCopy
	failures int // consecutive failures to copy a key
}

// A retiredCopy must no longer be used but has not been destroyed yet.
type retiredCopy struct {
	o    *object
	copy *sessionCopy
}

const (
	// A key requests a copy at its use number copyAfter. If it gets none, it requests one again
	// every copyInterval uses.
	copyAfter    = 3
	copyInterval = 256
	// maxCopyFailures is the number of consecutive failures after which copying stops.
	maxCopyFailures = 3
)

func newCopier(s *session) *copier {
	cp := &copier{
		session: s,
		wanted:  make(chan *object, 64),
		wake:    make(chan struct{}, 1),
		kept:    make(map[*object]*sessionCopy),
	}
	cp.active.Store(true)
	return cp
}

func (cp *copier) enabled() bool { return cp.active.Load() }

func (cp *copier) sign(s *p11.Session, o *object, m mechanism, digest []byte) (raw []byte, final bool, err error) {
	o.copy.inUse.RLock() // the copier only uses TryLock, so this never waits for a call
	defer o.copy.inUse.RUnlock()
	c := o.copy.current.Load()
	if c == nil {
		return nil, false, nil
	}
	raw, err = m.sign(s, c.handle, digest)
	if err != nil {
		if o.copy.current.CompareAndSwap(c, nil) {
			cp.retire(o, c)
		}
		return nil, !p11.Is(err, p11.HandleErrors...), err
	}
	o.copy.lastUsed.Store(time.Now().UnixNano())
	return raw, true, nil
}

func (cp *copier) signedDirectly(o *object) {
	if !cp.active.Load() {
		return
	}
	if n := o.copy.directSigns.Add(1); n == copyAfter || n%copyInterval == 0 {
		select {
		case cp.wanted <- o:
		default:
		}
	}
}

func (cp *copier) drop(o *object) {
	o.copy.generation.Add(1)
	o.copy.directSigns.Store(0)
	if c := o.copy.current.Swap(nil); c != nil {
		cp.retire(o, c)
	}
}

// retire has the goroutine destroy a copy. No new signature may use the copy.
func (cp *copier) retire(o *object, c *sessionCopy) {
	cp.mu.Lock()
	cp.retired = append(cp.retired, retiredCopy{o, c})
	cp.mu.Unlock()
	select {
	case cp.wake <- struct{}{}:
	default: // the goroutine will wake up anyway
	}
}

// run makes, checks and destroys copies until the connection is lost. The copies end with
// the connection.
func (cp *copier) run() {
	conn := cp.session.conn
	tick := time.NewTicker(conn.token.cfg.RecheckEvery)
	defer tick.Stop()
	for {
		if conn.lossReason() != nil || !cp.active.Load() {
			return
		}
		var task func() error
		select {
		case <-conn.lost:
			return
		case o := <-cp.wanted:
			task = func() error { return cp.copy(o) }
		case <-cp.wake:
			task = cp.destroyRetired
		case <-tick.C:
			task = cp.recheck
		}
		if err := p11.Protect(task); err != nil {
			cp.stop(err)
		}
	}
}

// copy makes a copy of o's key.
func (cp *copier) copy(o *object) error {
	if o.copy.current.Load() != nil {
		return nil
	}
	if ok, err := cp.makeRoom(); err != nil || !ok {
		return err
	}
	if !o.search.TryLock() {
		return nil
	}
	defer o.search.Unlock()
	if cp.session.conn.handles.get(o.id[:]) != o {
		return nil // the table has a new object for the key, or none
	}
	generation := o.copy.generation.Load()
	handle, err := copyObject(cp.session.p11, o.handle, o.id[:])
	if p11.Is(err, p11.HandleErrors...) {
		return nil // the next signature with the key determines why
	}
	if err != nil {
		if cp.failures++; cp.failures >= maxCopyFailures {
			return err
		}
		return nil
	}
	cp.failures = 0
	c := &sessionCopy{handle: handle}
	cp.kept[o] = c
	o.copy.lastUsed.Store(time.Now().UnixNano())
	o.copy.current.Store(c)
	if o.copy.generation.Load() != generation { // dropped while the copy was being made
		cp.drop(o)
	}
	return nil
}

// makeRoom drops the least recently used copy if there is no room for another one. It
// reports whether there is room now.
func (cp *copier) makeRoom() (bool, error) {
	cfg := cp.session.conn.token.cfg
	if len(cp.kept) < cfg.Copies {
		return true, nil
	}
	var victim *object
	for o := range cp.kept {
		if victim == nil || o.copy.lastUsed.Load() < victim.copy.lastUsed.Load() {
			victim = o
		}
	}
	// If more keys are in use at once than there is room for, the keys with a copy keep it:
	// making a copy takes longer than it saves.
	if time.Since(time.Unix(0, victim.copy.lastUsed.Load())) < cfg.CopyIdle {
		return false, nil
	}
	cp.drop(victim)
	err := cp.destroyRetired()
	return len(cp.kept) < cfg.Copies, err
}

// destroyRetired destroys retired copies. A copy that is in use for a signature stays until
// the next time, because the token may reuse its handle for another object.
func (cp *copier) destroyRetired() error {
	cp.mu.Lock()
	all := cp.retired
	cp.retired = nil
	cp.mu.Unlock()
	for _, r := range all {
		if !r.o.copy.inUse.TryLock() {
			cp.mu.Lock()
			cp.retired = append(cp.retired, r)
			cp.mu.Unlock()
			continue
		}
		// Without Protect, a panic would leave inUse locked.
		err := p11.Protect(func() error { return destroyCopy(cp.session.p11, r.copy.handle) })
		r.o.copy.inUse.Unlock()
		if cp.kept[r.o] == r.copy {
			delete(cp.kept, r.o)
		}
		if err != nil && !p11.Is(err, p11.HandleErrors...) {
			return err
		}
	}
	return nil
}

// recheck drops the copies whose keys no longer exist.
func (cp *copier) recheck() error {
	if err := cp.destroyRetired(); err != nil {
		return err
	}
	for o := range cp.kept {
		id, err := cp.session.p11.Attribute(o.handle, pkcs11.CKA_ID)
		gone := p11.Is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
		if err != nil && !gone {
			return err
		}
		if gone || !bytes.Equal(id, o.id[:]) { // the handle may belong to another object now
			if err := cp.session.checkAlive(); err != nil {
				return err // the token fails, so the key may still exist
			}
			o.stale.Store(true)
			cp.drop(o)
		}
	}
	return nil
}

// stop ends copying on this connection. It also abandons the connection if the token does
// not work. It does not destroy the existing copies, because a worker may be about to sign
// with one.
func (cp *copier) stop(reason error) {
	cp.active.Store(false)
	for o := range cp.kept {
		o.copy.current.Store(nil)
	}
	clear(cp.kept)
	conn := cp.session.conn
	conn.token.log.Warn("session copies disabled for this connection", "err", reason)
	if err := p11.Protect(cp.session.checkAlive); err != nil {
		conn.lose(fmt.Errorf("%w; then %w", reason, err))
	}
}
