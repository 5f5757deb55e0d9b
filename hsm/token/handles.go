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

// The labels of our objects in the token.
const (
	labelKey     = "kmsgate"         // both halves of every signing key
	labelCanary  = "kmsgate-canary"  // both halves of the canary key
	labelSealing = "kmsgate-sealing" // the AES key that seals
)

// idSize is the length of a signing key's CKA_ID: a KeyVersionId's 16 bytes.
const idSize = 16

type keyID [idSize]byte

// handles says where in the token each private key is. It is filled by one scan
// at connect and at creation; the request path never searches (1.2 s among
// 10,000 keys on SoftHSM).
type handles struct {
	mu   sync.RWMutex
	byID map[keyID]*object // guarded by mu
}

// An object is one private key in the token.
type object struct {
	id        keyID
	handle    pkcs11.ObjectHandle
	public    pkcs11.ObjectHandle // of the public half, if the pair was made on this connection
	duplicate bool                // several objects have this CKA_ID: refuse them all
	stale     atomic.Bool         // the handle was refused: find the object again

	// Held while the key is searched for, or copied: a session copy that SoftHSM is
	// making is a token object for a moment, as its original is (2.6.1,
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

// put adds an object; public is 0 if it is not known.
func (h *handles) put(id []byte, handle, public pkcs11.ObjectHandle) *object {
	o := &object{id: keyID(id), handle: handle, public: public}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byID[keyID(id)] = o
	return o
}

// drop takes an object out of the table and returns it, or nil.
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

// A scan of so many keys says so, for it takes a while, and how far it is.
const (
	manyKeys      = 1000
	progressEvery = time.Second
)

// scan fills the table with every private key that has our label. It is an error
// to miss one that is there.
func (h *handles) scan(s *session) error {
	found, err := findKeys(s.p11)
	if err != nil {
		return err
	}
	var refused []pkcs11.ObjectHandle
	reported := time.Now()
	for i, handle := range found {
		if i == 0 && len(found) >= manyKeys || time.Since(reported) > progressEvery {
			s.conn.token.log.Info("reading which keys the token has", "read", i, "of", len(found))
			reported = time.Now()
		}
		id, err := s.p11.Attribute(handle, pkcs11.CKA_ID)
		if p11.IsError(err) { // once more: of thousands of calls one may fail
			id, err = s.p11.Attribute(handle, pkcs11.CKA_ID)
		}
		switch {
		case p11.Is(err, p11.HandleErrors...):
			refused = append(refused, handle)
		case p11.Is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID), err == nil && len(id) != idSize:
			// Half an object, as a kill during generation leaves them: not one
			// of the keys that were reported as made.
			s.conn.token.log.Warn("the token has an object with our label that is no key of ours; left alone", "object", handle, "id", fmt.Sprintf("%x", id), "reason", err)
		case err != nil:
			return fmt.Errorf("scanning the token: %w", err)
		default:
			h.add(s, id, handle)
		}
	}
	return confirmDeleted(s.p11, refused)
}

// findKeys finds the private keys that have our label.
func findKeys(s *p11.Session) ([]pkcs11.ObjectHandle, error) {
	found, err := s.Find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelKey))
	if err != nil {
		return nil, fmt.Errorf("scanning the token: %w", err)
	}
	return found, nil
}

// confirmDeleted returns an error if the token still lists a key whose handle it refused.
func confirmDeleted(s *p11.Session, refused []pkcs11.ObjectHandle) error {
	if len(refused) == 0 {
		return nil
	}
	found, err := findKeys(s)
	if err != nil {
		return err
	}
	for _, handle := range refused {
		if slices.Contains(found, handle) {
			return fmt.Errorf("scanning the token: it lists the object %d, and says that there is no such object", handle)
		}
	}
	return nil
}

// add adds a key that a scan found.
func (h *handles) add(s *session, id []byte, handle pkcs11.ObjectHandle) {
	if other := h.get(id); other != nil {
		s.conn.token.log.Error("several private keys in the token have one CKA_ID; none of them will be used", "id", fmt.Sprintf("%x", id))
		other.duplicate = true
		return
	}
	h.put(id, handle, 0)
}

// locate returns the object of a private key. It finds the key again if its handle was
// refused.
func (s *session) locate(id []byte) (*object, error) {
	o := s.conn.handles.get(id)
	if o == nil {
		s.conn.token.seek(id)
		return nil, fmt.Errorf("%w: the token has no key with CKA_ID %x", hsm.ErrNotFound, id)
	}
	if o.duplicate {
		return nil, fmt.Errorf("%w: the token has several keys with CKA_ID %x and it cannot be told which is ours", hsm.ErrNotFound, id)
	}
	if !o.stale.Load() {
		return o, nil
	}
	o.search.Lock() // nobody else has it for longer than a call takes
	defer o.search.Unlock()
	if now := s.conn.handles.get(id); now != nil && now != o && !now.stale.Load() {
		return now, nil // another worker has found it
	}
	found, err := s.p11.Find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id))
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
		return nil, fmt.Errorf("%w: the token has %d keys with CKA_ID %x where it had one", hsm.ErrNotFound, len(found), id)
	}
	s.conn.copies.drop(o)
	return s.conn.handles.put(id, found[0], 0), nil
}

// checkPairGone gives up the connection if a private key is not found any more while
// its public half is. With SoftHSM, one moment without file descriptors can hide one
// object from this process, until the module is initialized again (measured). A key that
// is not found after that is gone.
func (s *session) checkPairGone(id []byte) error {
	halves, err := s.p11.Find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil || len(halves) == 0 {
		return err
	}
	return s.loseConnection(fmt.Errorf("the private half of %x is not found, and the public half is there", id))
}

// What the table has not is looked for no sooner than so long after the last search,
// and so many times as long as that took: among 10,000 keys a search takes 1.2 s.
const (
	seekEvery = time.Second
	seekPause = 9
)

// seek has the token searched for a key that the table has not, without anybody
// waiting: somebody may have put it back. Whoever asks for the key then gets it.
func (t *Token) seek(id []byte) {
	if !t.seeking.CompareAndSwap(false, true) {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
		defer cancel()
		began := time.Now()
		_, _ = run(ctx, t, t.changes, func(s *session) (struct{}, error) { // it is sought again
			found, err := findHalves(s.p11, pkcs11.CKO_PRIVATE_KEY, id)
			if err == nil && len(found) == 1 && s.conn.handles.get(id) == nil {
				s.conn.handles.put(id, found[0], 0)
			}
			return struct{}{}, err
		})
		time.AfterFunc(max(seekEvery, seekPause*time.Since(began)), func() { t.seeking.Store(false) })
	}()
}

// forgetHandle takes a key out of the table, and its copy out of use.
func (c *connection) forgetHandle(id []byte) {
	if o := c.handles.drop(id); o != nil {
		c.copies.drop(o)
	}
}
