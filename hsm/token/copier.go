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

// A copier keeps session copies of the keys that are used most. One goroutine, run,
// owns the session that the copies are in.
type copier struct {
	on     atomic.Bool  // copies are made
	wanted chan *object // keys that are used enough; what does not fit asks again
	wake   chan struct{}

	mu      sync.Mutex
	retired []retiredCopy // guarded by mu

	// The goroutine's own.
	session  *session
	kept     map[*object]*sessionCopy
	failures int // to copy, one after the other
}

// A retiredCopy is one that must not be used any more and is still there.
type retiredCopy struct {
	o    *object
	copy *sessionCopy
}

const (
	// copyAfter is the use at which a key gets a copy, and askAgain how many uses later
	// it asks again if it got none.
	copyAfter = 3
	askAgain  = 256
	// maxCopyFailures is after how many failures no more copies are made.
	maxCopyFailures = 3
)

func newCopier(s *session) *copier {
	k := &copier{session: s, wanted: make(chan *object, 64), wake: make(chan struct{}, 1), kept: make(map[*object]*sessionCopy)}
	k.on.Store(true)
	return k
}

func (k *copier) enabled() bool { return k.on.Load() }

func (k *copier) sign(s *p11.Session, o *object, m mechanism, digest []byte) (raw []byte, made bool, err error) {
	o.copy.inUse.RLock() // the copier only tries to lock, so this never waits for a call
	defer o.copy.inUse.RUnlock()
	c := o.copy.current.Load()
	if c == nil {
		return nil, false, nil
	}
	raw, err = m.sign(s, c.handle, digest)
	if err != nil {
		if o.copy.current.CompareAndSwap(c, nil) {
			k.retire(o, c)
		}
		return nil, !p11.Is(err, p11.HandleErrors...), err
	}
	o.copy.lastUsed.Store(time.Now().UnixNano())
	return raw, true, nil
}

func (k *copier) signedDirectly(o *object) {
	if !k.on.Load() {
		return
	}
	if n := o.copy.directSigns.Add(1); n == copyAfter || n%askAgain == 0 {
		select {
		case k.wanted <- o:
		default:
		}
	}
}

func (k *copier) drop(o *object) {
	o.copy.generation.Add(1)
	o.copy.directSigns.Store(0)
	if c := o.copy.current.Swap(nil); c != nil {
		k.retire(o, c)
	}
}

// retire has the goroutine destroy a copy that no signature is begun with any more.
func (k *copier) retire(o *object, c *sessionCopy) {
	k.mu.Lock()
	k.retired = append(k.retired, retiredCopy{o, c})
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default: // it is awake
	}
}

// run makes, looks after and destroys copies until the connection is lost. The
// copies end with it.
func (k *copier) run() {
	conn := k.session.conn
	tick := time.NewTicker(conn.token.cfg.RecheckEvery)
	defer tick.Stop()
	for {
		if conn.lossReason() != nil || !k.on.Load() {
			return
		}
		var task func() error
		select {
		case <-conn.lost:
			return
		case o := <-k.wanted:
			task = func() error { return k.copy(o) }
		case <-k.wake:
			task = k.destroyRetired
		case <-tick.C:
			task = k.recheck
		}
		if err := p11.Safely(task); err != nil {
			k.stop(err)
		}
	}
}

// copy makes a copy of o's key.
func (k *copier) copy(o *object) error {
	if o.copy.current.Load() != nil {
		return nil
	}
	if ok, err := k.makeRoom(); err != nil || !ok {
		return err
	}
	if !o.search.TryLock() {
		return nil
	}
	defer o.search.Unlock()
	if k.session.conn.handles.get(o.id[:]) != o {
		return nil // it was found again, or destroyed
	}
	generation := o.copy.generation.Load()
	handle, err := copyObject(k.session.p11, o.handle, o.id[:])
	if p11.Is(err, p11.HandleErrors...) {
		return nil // the next signature with the key finds out why
	}
	if err != nil {
		if k.failures++; k.failures >= maxCopyFailures {
			return err
		}
		return nil
	}
	k.failures = 0
	c := &sessionCopy{handle: handle}
	k.kept[o] = c
	o.copy.lastUsed.Store(time.Now().UnixNano())
	o.copy.current.Store(c)
	if o.copy.generation.Load() != generation { // it was dropped while it was made
		k.drop(o)
	}
	return nil
}

// makeRoom makes sure that there is room for one more copy, and reports whether there
// is.
func (k *copier) makeRoom() (bool, error) {
	cfg := k.session.conn.token.cfg
	if len(k.kept) < cfg.Copies {
		return true, nil
	}
	var victim *object
	for o := range k.kept {
		if victim == nil || o.copy.lastUsed.Load() < victim.copy.lastUsed.Load() {
			victim = o
		}
	}
	// If more keys than there is room for are in use at once, those that have a
	// copy keep it: making one costs more than it saves.
	if time.Since(time.Unix(0, victim.copy.lastUsed.Load())) < cfg.CopyIdle {
		return false, nil
	}
	k.drop(victim)
	err := k.destroyRetired()
	return len(k.kept) < cfg.Copies, err
}

// destroyRetired destroys retired copies. One that a signature is being made with
// waits for the next time: its handle may be given to another object.
func (k *copier) destroyRetired() error {
	k.mu.Lock()
	all := k.retired
	k.retired = nil
	k.mu.Unlock()
	for _, r := range all {
		if !r.o.copy.inUse.TryLock() {
			k.mu.Lock()
			k.retired = append(k.retired, r)
			k.mu.Unlock()
			continue
		}
		err := p11.Safely(func() error { return destroyCopy(k.session.p11, r.copy.handle) }) // or inUse stayed locked
		r.o.copy.inUse.Unlock()
		if k.kept[r.o] == r.copy {
			delete(k.kept, r.o)
		}
		if err != nil && !p11.Is(err, p11.HandleErrors...) {
			return err
		}
	}
	return nil
}

// recheck drops the copies whose keys are not there any more.
func (k *copier) recheck() error {
	if err := k.destroyRetired(); err != nil {
		return err
	}
	for o := range k.kept {
		id, err := k.session.p11.Attribute(o.handle, pkcs11.CKA_ID)
		gone := p11.Is(err, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
		if err != nil && !gone {
			return err
		}
		if gone || !bytes.Equal(id, o.id[:]) { // the handle may be another object's now
			if err := k.session.checkAlive(); err != nil {
				return err // the token, not the key
			}
			o.stale.Store(true)
			k.drop(o)
		}
	}
	return nil
}

// stop ends copying for as long as the connection lasts, and the connection if the
// token does not work. The copies that there are, are left: a worker may be about to
// sign with one.
func (k *copier) stop(reason error) {
	k.on.Store(false)
	for o := range k.kept {
		o.copy.current.Store(nil)
	}
	clear(k.kept)
	conn := k.session.conn
	conn.token.log.Warn("no more session copies of keys are made on this connection", "reason", reason)
	if err := p11.Safely(k.session.checkAlive); err != nil {
		conn.lose(fmt.Errorf("%w, and then %w", reason, err))
	}
}
