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

// sessionCopies signs with copies of private keys that live in a session. On a token that
// keeps its objects in files, as SoftHSM does, signing with a copy is faster (1.5 times on
// P-256) and does not wait for callers that make and destroy keys (9,100 signatures a second
// against 94, among 10,000 keys). startCopies measures the gain at every connecting. Without
// copies everything works, at the token's speed.
//
// A copy cannot be read out either, and ends with the connection at the latest. But it
// survives if another application deletes its key, so the copier checks for that.
//
// A copier implements sessionCopies with copies, and noCopies without. The methods are safe
// for concurrent use.
type sessionCopies interface {
	// sign makes a raw signature with o's copy. If final is false, o has no copy that the
	// token knows, and the caller may use the key itself. sign drops the copy if there is an
	// error.
	sign(s *p11.Session, o *object, m mechanism, digest []byte) (raw []byte, final bool, err error)

	// signedDirectly counts a signature made with the key itself. A key that is used often
	// enough gets a copy.
	signedDirectly(o *object)

	// drop prevents further signatures with o's copy and destroys the copy. If the key is
	// used again, it can get another copy.
	drop(o *object)

	// enabled reports whether keys get copies.
	enabled() bool
}

// A copyState is the state of an object's session copy. The copier maintains it.
type copyState struct {
	current     atomic.Pointer[sessionCopy] // nil if there is no copy
	inUse       sync.RWMutex                // held for reading during a signature with the copy
	directSigns atomic.Int64                // signatures with the key itself since the last drop
	lastUsed    atomic.Int64                // in nanoseconds since 1970
	generation  atomic.Int64                // the number of drops
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

// copyGain is a ratio: copies are used if a signature with a copy takes less than copyGain
// times as long as with the key itself. Only tests change it.
var copyGain = 0.9

// startCopies opens the copier's session and tests with the canary key whether copies
// are possible and faster. It returns the function that the copier's goroutine runs, or nil
// if copies are not used, which is not an error.
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
		c.token.log.Debug("signing without session copies", "copy", copied, "key", direct, "err", err)
		s.p11.Close()
		return noCopies{}, nil, first.p11.Renew() // an operation may still be active in it
	}
	cp := newCopier(s)
	return cp, cp.run, nil
}

// tryCopy copies the canary key and signs with the copy in another session. It returns the
// shortest times of signatures with the copy and with the key itself, since longer times
// depend on the load of the machine rather than on the token.
func tryCopy(s, other *p11.Session, canary canaryKey) (copied, direct time.Duration, err error) {
	handle, err := copyObject(s, canary.handle, canaryID)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = destroyCopy(s, handle) }() // on error, the copy ends with the session
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

// copyObject copies a private key into the session. It is an error if the result is not a
// session object with the key's CKA_ID, sensitive and not extractable.
func copyObject(s *p11.Session, o pkcs11.ObjectHandle, id []byte) (pkcs11.ObjectHandle, error) {
	h, err := s.Copy(o, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false))
	if err != nil {
		return 0, err
	}
	required := map[uint]bool{pkcs11.CKA_TOKEN: false, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false}
	for typ, want := range required {
		got, err := s.Bool(h, typ)
		if err != nil {
			return 0, err
		}
		if got != want {
			return 0, p11.Wrap("C_CopyObject", fmt.Errorf("the copy's attribute %#x is %v, not %v", typ, got, want))
		}
	}
	copied, err := s.Attribute(h, pkcs11.CKA_ID)
	if err == nil && !bytes.Equal(copied, id) {
		err = p11.Wrap("C_CopyObject", fmt.Errorf("the copy has CKA_ID %x, but the key has %x", copied, id))
	}
	return h, err
}

// destroyCopy destroys a session object. It checks first that h is not a token object,
// because a faulty token may have returned the handle of a key instead of a copy.
func destroyCopy(s *p11.Session, h pkcs11.ObjectHandle) error {
	inToken, err := s.Bool(h, pkcs11.CKA_TOKEN)
	if err != nil || inToken {
		return err
	}
	return s.Destroy(h)
}

// Forget drops k's session copy, if it exists.
func (t *Token) Forget(k hsm.Key) {
	c := t.current.Load()
	if c == nil {
		return
	}
	if o := c.known(k.ID); o != nil {
		c.copies.drop(o)
	}
}
