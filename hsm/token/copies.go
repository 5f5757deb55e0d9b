package token

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// copies keeps session copies of the keys that are used most. Where a token has
// its objects in files, as SoftHSM has, signing with a copy is faster (1.5 times
// on P-256) and does not wait for whoever makes and destroys keys (9,100
// signatures a second against 94, among 10,000 keys). Whether that is so here
// is tried at every connecting.
//
// A copy cannot be read out either, and ends with the connection at the latest.
// But it outlives a deletion of its key by somebody else, so that is looked for.
//
// One goroutine, the keeper, owns the session that the copies are in.
type copies struct {
	c      *connection
	on     atomic.Bool  // copies are made
	wanted chan *object // keys that are used enough; what does not fit asks again
	wake   chan struct{}

	mu        sync.Mutex
	condemned []condemned // guarded by mu

	// The keeper's own.
	session  *session
	kept     map[*object]*sessionCopy
	failures int // to copy, one after the other
}

// A condemned copy is one that must not be used any more and is still there.
type condemned struct {
	o    *object
	copy *sessionCopy
}

const (
	// copyAfter is the use at which a key gets a copy, and how many uses later it
	// asks again if it got none.
	copyAfter = 3
	askAgain  = 256
	// givesUp is after how many failures no more copies are made.
	givesUp = 3
	// worthIt is how the time of a signature with a copy has to compare.
	worthIt = 0.9
)

func newCopies(c *connection) *copies {
	return &copies{c: c, wanted: make(chan *object, 64), wake: make(chan struct{}, 1), kept: make(map[*object]*sessionCopy)}
}

// start opens the keeper's session and tries with the canary key whether copies
// are possible and faster. It gives what the keeper does; nil if there are no
// copies, which is no error.
func (k *copies) start(first *session) (keep func(), err error) {
	if k.c.token.cfg.Copies < 0 {
		return nil, nil
	}
	if k.session, err = k.c.openSession(); err != nil {
		return nil, err
	}
	copied, direct, err := tryCopy(k.session.p11, first.p11, k.c.canary)
	if err != nil || copied >= time.Duration(worthIt*float64(direct)) {
		k.c.token.log.Debug("signing without session copies", "copy", copied, "key", direct, "reason", err)
		k.session.p11.Close()
		return nil, first.p11.Renew() // in which an operation may be half done
	}
	k.on.Store(true)
	return k.keep, nil
}

// tryCopy copies the canary key and has the copy sign in another session. It
// gives the shortest times of signatures with the copy and with the key itself:
// the longer ones say more about the machine than about the token.
func tryCopy(s, other *p11.Session, canary canaryKey) (copied, direct time.Duration, err error) {
	handle, err := copyObject(s, canary.handle, canaryID)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = destroyCopy(s, handle) }() // or it ends with the session
	m := mechanisms[canary.alg]
	const tries = 15
	var times [2][]time.Duration
	for range tries {
		for i, h := range []pkcs11.ObjectHandle{handle, canary.handle} {
			began := time.Now()
			if _, err := m.sign(other, h, canaryDigest); err != nil {
				return 0, 0, err
			}
			times[i] = append(times[i], time.Since(began))
		}
	}
	return slices.Min(times[0]), slices.Min(times[1]), nil
}

// copyObject copies a private key into the session. What is not a copy of it, and
// as well guarded, is not given out.
func copyObject(s *p11.Session, o pkcs11.ObjectHandle, id []byte) (pkcs11.ObjectHandle, error) {
	h, err := s.Copy(o, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false))
	if err != nil {
		return 0, err
	}
	for typ, want := range map[uint]bool{pkcs11.CKA_TOKEN: false, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false} {
		got, err := s.Bool(h, typ)
		if err != nil {
			return 0, err
		}
		if got != want {
			return 0, p11.Wrap("C_CopyObject", fmt.Errorf("the copy's attribute %#x is %v", typ, got))
		}
	}
	copied, err := s.Attribute(h, pkcs11.CKA_ID)
	if err == nil && !bytes.Equal(copied, id) {
		err = p11.Wrap("C_CopyObject", fmt.Errorf("the copy has the CKA_ID %x, the key %x", copied, id))
	}
	return h, err
}

// destroyCopy destroys a session object. A handle that a token gave for one, and
// that is a key's own, must not be destroyed.
func destroyCopy(s *p11.Session, h pkcs11.ObjectHandle) error {
	inToken, err := s.Bool(h, pkcs11.CKA_TOKEN)
	if err != nil || inToken {
		return err
	}
	return s.Destroy(h)
}

// used counts a signature that was made with the key itself, and asks for a copy
// if there were enough.
func (k *copies) used(o *object) {
	if !k.on.Load() {
		return
	}
	if n := o.uses.Add(1); n == copyAfter || n%askAgain == 0 {
		select {
		case k.wanted <- o:
		default:
		}
	}
}

// forget sees to it that no signature is begun with o's copy from now on, and
// has the keeper destroy it.
func (k *copies) forget(o *object) {
	o.forgets.Add(1)
	o.uses.Store(0)
	if w := o.copy.Swap(nil); w != nil {
		k.condemn(o, w)
	}
}

// giveUp is forget for one copy that does not work.
func (k *copies) giveUp(o *object, w *sessionCopy) {
	if o.copy.CompareAndSwap(w, nil) {
		k.condemn(o, w)
	}
}

func (k *copies) condemn(o *object, w *sessionCopy) {
	k.mu.Lock()
	k.condemned = append(k.condemned, condemned{o, w})
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default: // it is awake
	}
}

// keep makes, looks after and destroys copies until the connection is lost. The
// copies end with it.
func (k *copies) keep() {
	tick := time.NewTicker(k.c.token.cfg.RecheckEvery)
	defer tick.Stop()
	for {
		if k.c.givenUp() != nil || !k.on.Load() {
			return
		}
		var what func() error
		select {
		case <-k.c.lost:
			return
		case o := <-k.wanted:
			what = func() error { return k.copy(o) }
		case <-k.wake:
			what = k.bury
		case <-tick.C:
			what = k.recheck
		}
		if err := p11.Safely(what); err != nil {
			k.stop(err)
		}
	}
}

// copy makes a copy of o's key.
func (k *copies) copy(o *object) error {
	if o.copy.Load() != nil {
		return nil
	}
	if ok, err := k.room(); err != nil || !ok {
		return err
	}
	if !o.search.TryLock() {
		return nil
	}
	defer o.search.Unlock()
	if k.c.handles.get(o.id[:]) != o {
		return nil // it was found again, or destroyed
	}
	forgets := o.forgets.Load()
	handle, err := copyObject(k.session.p11, o.handle, o.id[:])
	if p11.Is(err, p11.HandleErrors...) {
		return nil // whoever signs with the key next finds out why
	}
	if err != nil {
		if k.failures++; k.failures >= givesUp {
			return err
		}
		return nil
	}
	k.failures = 0
	w := &sessionCopy{handle: handle}
	k.kept[o] = w
	o.used.Store(time.Now().UnixNano())
	o.copy.Store(w)
	if o.forgets.Load() != forgets { // meanwhile
		k.forget(o)
	}
	return nil
}

// room makes sure that there is room for one more copy, if it can.
func (k *copies) room() (bool, error) {
	if len(k.kept) < k.c.token.cfg.Copies {
		return true, nil
	}
	var victim *object
	for o := range k.kept {
		if victim == nil || o.used.Load() < victim.used.Load() {
			victim = o
		}
	}
	// If more keys than there is room for are in use at once, those that have a
	// copy keep it: making one costs more than it saves.
	if time.Since(time.Unix(0, victim.used.Load())) < k.c.token.cfg.CopyIdle {
		return false, nil
	}
	k.forget(victim)
	err := k.bury()
	return len(k.kept) < k.c.token.cfg.Copies, err
}

// bury destroys condemned copies. One that a signature is being made with waits
// for the next time: its handle may be given to another object.
func (k *copies) bury() error {
	k.mu.Lock()
	all := k.condemned
	k.condemned = nil
	k.mu.Unlock()
	for _, dead := range all {
		if !dead.o.using.TryLock() {
			k.mu.Lock()
			k.condemned = append(k.condemned, dead)
			k.mu.Unlock()
			continue
		}
		err := p11.Safely(func() error { return destroyCopy(k.session.p11, dead.copy.handle) }) // or using stayed locked
		dead.o.using.Unlock()
		if k.kept[dead.o] == dead.copy {
			delete(k.kept, dead.o)
		}
		if err != nil && !p11.Is(err, p11.HandleErrors...) {
			return err
		}
	}
	return nil
}

// recheck looks whether the keys are still there that there are copies of.
func (k *copies) recheck() error {
	if err := k.bury(); err != nil {
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
			k.forget(o)
		}
	}
	return nil
}

// stop ends copying for as long as the connection lasts, and the connection if the
// token is not well. The copies that there are, are left: a worker may be about to
// sign with one.
func (k *copies) stop(why error) {
	k.on.Store(false)
	for o := range k.kept {
		o.copy.Store(nil)
	}
	clear(k.kept)
	k.c.token.log.Warn("no more session copies of keys are made on this connection", "reason", why)
	if err := p11.Safely(k.session.checkAlive); err != nil {
		k.c.lose(fmt.Errorf("%w, and then %w", why, err))
	}
}

// Forget drops k's session copy, if there is one.
func (t *Token) Forget(k hsm.Key) {
	c := t.current.Load()
	if c == nil {
		return
	}
	if o := c.handles.get(k.ID); o != nil {
		c.copies.forget(o)
	}
}
