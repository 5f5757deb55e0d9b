package token

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
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
	handle  pkcs11.ObjectHandle
	twice   bool                   // several objects have this CKA_ID: refuse them all
	stale   atomic.Bool            // the handle was refused: find the object again
	checked atomic.Pointer[string] // the public key that a signature was verified with
}

// isChecked reports whether a signature was verified with public.
func (o *object) isChecked(public []byte) bool {
	p := o.checked.Load()
	return p != nil && *p == string(public)
}

func (o *object) setChecked(public []byte) {
	p := string(public)
	o.checked.Store(&p)
}

func (h *handles) get(id []byte) *object {
	if len(id) != idSize {
		return nil
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.byID[keyID(id)]
}

func (h *handles) put(id []byte, handle pkcs11.ObjectHandle) *object {
	o := &object{handle: handle}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byID[keyID(id)] = o
	return o
}

func (h *handles) drop(id []byte) {
	if len(id) != idSize {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byID, keyID(id))
}

// scan fills the table with every private key that has our label.
func (h *handles) scan(s *session) error {
	h.byID = make(map[keyID]*object)
	found, err := s.find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelKey))
	if err != nil {
		return fmt.Errorf("scanning the token: %w", err)
	}
	for _, handle := range found {
		id, err := s.attribute(handle, pkcs11.CKA_ID)
		if err != nil && !isCode(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			return fmt.Errorf("scanning the token: %w", err) // of its keys, none may be missing by chance
		}
		if err != nil || len(id) != idSize {
			// Half an object, as a kill during generation leaves them: not one
			// of the keys that were reported as made.
			s.token.log.Warn("the token has an object with our label that is no key of ours; left alone", "object", handle, "id", fmt.Sprintf("%x", id), "reason", err)
			continue
		}
		if other := h.get(id); other != nil {
			s.token.log.Error("several private keys in the token have one CKA_ID; none of them will be used", "id", fmt.Sprintf("%x", id))
			other.twice = true
			continue
		}
		h.put(id, handle)
	}
	return nil
}

// locate gives the object of a private key, finding it again if its handle was
// refused.
func (s *session) locate(id []byte) (*object, error) {
	o := s.handles.get(id)
	if o == nil {
		return nil, fmt.Errorf("%w: the token has no key with CKA_ID %x", hsm.ErrNotFound, id)
	}
	if o.twice {
		return nil, fmt.Errorf("%w: the token has several keys with CKA_ID %x and it cannot be told which is ours", hsm.ErrNotFound, id)
	}
	if !o.stale.Load() {
		return o, nil
	}
	found, err := s.find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		if err := s.confirm(); err != nil {
			return nil, err
		}
		s.handles.drop(id)
		return nil, fmt.Errorf("%w: the token has %d keys with CKA_ID %x where it had one", hsm.ErrNotFound, len(found), id)
	}
	return s.handles.put(id, found[0]), nil
}
