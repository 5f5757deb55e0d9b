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

// sessionCopies signs with copies of private keys that live in a session. Where a
// token has its objects in files, as SoftHSM has, signing with a copy is faster (1.5
// times on P-256) and does not wait for callers who make and destroy keys (9,100
// signatures a second against 94, among 10,000 keys). startCopies tries at every
// connecting whether that is so here. Without copies everything works, and signing
// takes what the token takes.
//
// A copy cannot be read out either, and ends with the connection at the latest. But
// it outlives a deletion of its key by somebody else, so the copier looks for that.
//
// A copier has them, and noCopies has not. The methods are safe for concurrent use.
type sessionCopies interface {
	// sign makes a raw signature with o's copy. It is not made if o has no copy that
	// the token knows: then the key itself can be used. An error means that it was
	// tried, and drops the copy.
	sign(s *p11.Session, o *object, m mechanism, digest []byte) (raw []byte, made bool, err error)

	// signedDirectly counts a signature that was made with the key itself. A key that
	// is used enough gets a copy.
	signedDirectly(o *object)

	// drop has no signature be begun with o's copy from now on, and destroys the copy.
	// A key that is used again can get another one.
	drop(o *object)

	// enabled reports whether keys get copies.
	enabled() bool
}

// A copyState is what an object knows of its session copy. It belongs to the copier.
type copyState struct {
	current     atomic.Pointer[sessionCopy] // nil if there is none
	inUse       sync.RWMutex                // held for reading while a signature is made with the copy
	directSigns atomic.Int64                // since the copy was dropped, with the key itself
	lastUsed    atomic.Int64                // in nanoseconds since 1970
	generation  atomic.Int64                // how often the copy was dropped
}

// A sessionCopy is a copy of a private key that lives in the copier's session.
type sessionCopy struct{ handle pkcs11.ObjectHandle }

// noCopies makes no copies.
type noCopies struct{}

func (noCopies) sign(*p11.Session, *object, mechanism, []byte) ([]byte, bool, error) {
	return nil, false, nil
}
func (noCopies) signedDirectly(*object) {}
func (noCopies) drop(*object)           {}
func (noCopies) enabled() bool          { return false }

// copyGain bounds the time of a signature with a copy, as a share of the time with the key
// itself: copies are used only below it. Only tests change it.
var copyGain = 0.9

// startCopies opens the copier's session and tries with the canary key whether copies
// are possible and faster. It returns what the copier does; nil if there are no copies,
// which is no error.
func startCopies(c *connection, first *session) (sessionCopies, func(), error) {
	if c.token.cfg.NoSessionCopies {
		return noCopies{}, nil, nil
	}
	s, err := c.openSession()
	if err != nil {
		return nil, nil, err
	}
	copied, direct, err := tryCopy(s.p11, first.p11, c.canary)
	if err != nil || float64(copied) >= copyGain*float64(direct) {
		c.token.log.Debug("signing without session copies", "copy", copied, "key", direct, "reason", err)
		s.p11.Close()
		return noCopies{}, nil, first.p11.Renew() // in which an operation may be half done
	}
	k := newCopier(s)
	return k, k.run, nil
}

// tryCopy copies the canary key and has the copy sign in another session. It
// returns the shortest times of signatures with the copy and with the key itself:
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

// copyObject copies a private key into the session. It is an error if the result is not
// a session object with the key's CKA_ID that is guarded as the key is.
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

// Forget drops k's session copy, if there is one.
func (t *Token) Forget(k hsm.Key) {
	c := t.current.Load()
	if c == nil {
		return
	}
	if o := c.handles.get(k.ID); o != nil {
		c.copies.drop(o)
	}
}
