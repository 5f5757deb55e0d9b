package token

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// The labels of kmsgate's objects in the token.
const (
	labelKey     = "kmsgate"         // both halves of every signing key
	labelCanary  = "kmsgate-canary"  // both halves of the canary key
	labelSealing = "kmsgate-sealing" // the sealing key: AES, or a generic secret for HMAC
	labelTrial   = "kmsgate-trial"   // session keys of a Survey's trials
	labelAudit   = "kmsgate-audit"   // both halves of the audit log's key, and the data object of the Counter
)

// idSize is the length of a signing key's CKA_ID: a KeyVersionId's 16 bytes.
const idSize = 16

type keyID [idSize]byte

// handles is a table of the handles of the private keys with one label. A scan at connecting
// fills it, and later every creation adds to it. A request for a known key does not search the
// token, which takes 1.2 s among 10,000 keys on SoftHSM.
type handles struct {
	label string

	mu   sync.RWMutex
	byID map[keyID]*object // guarded by mu
}

func newHandles(label string) *handles { return &handles{label: label, byID: make(map[keyID]*object)} }

// An object is one private key in the token.
type object struct {
	id        keyID
	handle    pkcs11.ObjectHandle
	public    pkcs11.ObjectHandle // of the public half, if the pair was made on this connection
	duplicate bool                // several objects have this CKA_ID, so none is used
	stale     atomic.Bool         // the token rejected the handle: find the object again

	// search is held while the key is searched for or copied. While SoftHSM makes a session
	// copy, the copy is a token object for a moment, like its original (2.6.1,
	// C_CopyObject), and the search would find both.
	search sync.Mutex

	copy copyState
}

func (h *handles) len() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.byID)
}

func (h *handles) get(id []byte) *object {
	if len(id) != idSize {
		return nil
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.byID[keyID(id)]
}

// put adds an object. public is the handle of the public half, or 0 if it is unknown.
func (h *handles) put(id []byte, handle, public pkcs11.ObjectHandle) *object {
	o := &object{id: keyID(id), handle: handle, public: public}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byID[keyID(id)] = o
	return o
}

// drop removes an object from the table and returns it, or nil if the table lacks it.
func (h *handles) drop(id []byte) *object {
	if len(id) != idSize {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.byID[keyID(id)]
	delete(h.byID, keyID(id))
	return o
}

// A scan of at least manyKeys keys takes a while. It logs its start and, every progressEvery,
// its progress.
const (
	manyKeys      = 1000
	progressEvery = time.Second
)

// scan fills the table with every private key that has the table's label. It fails if it
// cannot read one of them.
func (h *handles) scan(s *session) error {
	found, err := findKeys(s.p11, h.label)
	if err != nil {
		return err
	}
	return h.scanFound(s, found)
}

// scanFound fills the table with the private keys of a search.
func (h *handles) scanFound(s *session, found []pkcs11.ObjectHandle) error {
	var refused []pkcs11.ObjectHandle
	reported := time.Now()
	for i, handle := range found {
		if i == 0 && len(found) >= manyKeys || time.Since(reported) > progressEvery {
			s.conn.token.log.Info("reading the keys of the token", "read", i, "total", len(found))
			reported = time.Now()
		}
		id, err := s.p11.Attribute(handle, pkcs11.CKA_ID)
		if p11.IsError(err) { // retry once, since one of thousands of calls may fail
			id, err = s.p11.Attribute(handle, pkcs11.CKA_ID)
		}
		switch {
		case p11.Is(err, p11.HandleErrors...):
			refused = append(refused, handle)
		case p11.Is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID), err == nil && len(id) != idSize:
			// A kill while the token makes a key can leave such an incomplete object. The
			// gateway has not reported its creation, so it is not a key in use.
			s.conn.token.log.Warn("ignoring an incomplete object with kmsgate's label in the token",
				"object", handle, "id", fmt.Sprintf("%x", id), "err", err)
		case err != nil:
			return fmt.Errorf("scanning the token: %w", err)
		default:
			h.add(s, id, handle)
		}
	}
	return confirmDeleted(s.p11, h.label, refused)
}

// findKeys finds the private keys that have a label.
func findKeys(s *p11.Session, label string) ([]pkcs11.ObjectHandle, error) {
	found, err := s.Find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	if err != nil {
		return nil, fmt.Errorf("scanning the token: %w", err)
	}
	return found, nil
}

// confirmDeleted returns an error if the token still lists a key whose handle it rejected.
func confirmDeleted(s *p11.Session, label string, refused []pkcs11.ObjectHandle) error {
	if len(refused) == 0 {
		return nil
	}
	found, err := findKeys(s, label)
	if err != nil {
		return err
	}
	for _, handle := range refused {
		if slices.Contains(found, handle) {
			return fmt.Errorf("scanning the token: it lists object %d but rejects the object's handle", handle)
		}
	}
	return nil
}

// add adds a key that a scan found.
func (h *handles) add(s *session, id []byte, handle pkcs11.ObjectHandle) {
	if other := h.get(id); other != nil {
		s.conn.token.log.Error("several private keys in the token have the same CKA_ID; using none of them",
			"id", fmt.Sprintf("%x", id))
		other.duplicate = true
		return
	}
	h.put(id, handle, 0)
}

func errNoKey(id []byte) error {
	return fmt.Errorf("%w: the token has no key with CKA_ID %x", hsm.ErrNotFound, id)
}

func errDuplicateKey(id []byte) error {
	return fmt.Errorf("%w: the token has several keys with CKA_ID %x, so none is used", hsm.ErrNotFound, id)
}

// locate returns the object of a private key that is for a use. If the token rejected the key's
// handle, locate searches for the key.
func (s *session) locate(use string, id []byte) (*object, error) {
	table := s.conn.table(use, id)
	o := table.get(id)
	if o == nil {
		seek(s.conn.token, use, id)
		return nil, errNoKey(id)
	}
	if o.duplicate {
		return nil, errDuplicateKey(id)
	}
	if !o.stale.Load() {
		return o, nil
	}
	o.search.Lock() // its other holders release it after a few calls
	defer o.search.Unlock()
	if now := table.get(id); now != nil && now != o && !now.stale.Load() {
		return now, nil // another worker has found it
	}
	found, err := findPrivate(s.p11, table.label, id)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		if err := s.checkAlive(); err != nil {
			return nil, err
		}
		if err := s.checkPairGone(id); err != nil {
			return nil, err
		}
		s.conn.forgetHandle(id)
		return nil, fmt.Errorf("%w: the token now has %d keys with CKA_ID %x instead of one", hsm.ErrNotFound, len(found), id)
	}
	s.conn.copies.drop(o)
	return table.put(id, found[0], 0), nil
}

func findPrivate(s *p11.Session, label string, id []byte) ([]pkcs11.ObjectHandle, error) {
	return s.Find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id))
}

// checkPairGone abandons the connection if a private key is no longer found but its public
// half is. With SoftHSM, one moment without file descriptors can hide one object from this
// process until the module is initialized again (measured). A key that is not found after
// that is gone.
func (s *session) checkPairGone(id []byte) error {
	halves, err := s.p11.Find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil || len(halves) == 0 {
		return err
	}
	return s.loseConnection(fmt.Errorf("the token has the public half of %x but not the private half", id))
}

// The pause between two searches for unknown keys is at least minSeekPause, and at least
// seekPauseFactor times the duration of the last search: among 10,000 keys a search takes
// 1.2 s.
const (
	minSeekPause    = time.Second
	seekPauseFactor = 9
)

// seek searches the token in the background for a key for a use that is not in the table,
// because someone may have restored the key. Later requests for the key then find it.
func seek(t *Token, use string, id []byte) {
	if use == labelKey && isReserved(t, id) || !t.seeking.CompareAndSwap(false, true) {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
		defer cancel()
		began := time.Now()
		// After an error, the next request for the key starts another search.
		_, _ = run(ctx, t, t.changes, func(s *session) (struct{}, error) {
			table := s.conn.table(use, id)
			found, err := findPrivate(s.p11, table.label, id)
			if err == nil && len(found) == 1 && table.get(id) == nil {
				table.put(id, found[0], 0)
			}
			return struct{}{}, err
		})
		pause := max(minSeekPause, seekPauseFactor*time.Since(began))
		time.AfterFunc(pause, func() { t.seeking.Store(false) })
	}()
}

// forgetHandle removes a key from the tables and drops its copy.
func (c *connection) forgetHandle(id []byte) {
	for _, table := range []*handles{c.handles, c.audit} {
		if o := table.drop(id); o != nil {
			c.copies.drop(o)
		}
	}
}
