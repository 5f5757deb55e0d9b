package token

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
)

// otherSessions are those beside Config.Sessions: two hold the login and the
// module, one makes a key in crypto11, two are for changes, one is the keeper's.
const otherSessions = 6

// A session is a PKCS#11 session. It belongs to one goroutine.
type session struct {
	*connection
	p11    *pkcs11.Ctx
	handle pkcs11.SessionHandle // 0: it is closed, and could not be replaced
	doing  *doing
}

func (c *connection) openSession() (*session, error) {
	h, err := c.token.p11.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if isCode(err, pkcs11.CKR_SESSION_COUNT) {
		return nil, fromModule(fmt.Sprintf("opening a session (%d are needed: give fewer to signing, in token.sessions)", c.token.cfg.Sessions+otherSessions), err)
	}
	if err != nil {
		return nil, fromModule("opening a session", err)
	}
	if _, another := c.sessions.LoadOrStore(h, true); another { // two goroutines in one crash the process
		return nil, fromModule("opening a session", fmt.Errorf("the token gave a handle, %d, that another session has", h))
	}
	return &session{connection: c, p11: c.token.p11, handle: h, doing: c.connecting}, nil
}

// close gives the session back. That it is already gone is no news.
func (s *session) close() {
	if s.handle == 0 {
		return
	}
	s.sessions.Delete(s.handle) // first: the token may give it to another session at once
	_ = s.p11.CloseSession(s.handle)
	s.handle = 0
}

// renew replaces a session of which it is not known what state it is in.
func (s *session) renew() error {
	s.close()
	renewed, err := s.openSession()
	if err == nil {
		s.handle = renewed.handle
	}
	return err
}

// confirm asks for a canary signature before a search that found less than it
// should is believed: SoftHSM without its files finds no objects, and calls that
// a success (measured).
func (s *session) confirm() error { return s.canary() }

// giveUp gives the connection up for an error that does not show with the canary.
func (s *session) giveUp(err error) error {
	s.lose(err)
	return fromModule("giving up the connection", err)
}

// mostObjects bounds what a search may find. No token that is well has so many.
const mostObjects = 1 << 20

// find lists the token objects that match the template, each once; session objects
// are left out. That it finds nothing means something only after confirm.
func (s *session) find(template ...*pkcs11.Attribute) (found []pkcs11.ObjectHandle, err error) {
	template = append(template, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))
	if err := s.p11.FindObjectsInit(s.handle, template); err != nil {
		return nil, fromModule("searching", err)
	}
	seen := make(map[pkcs11.ObjectHandle]bool)
	for {
		s.doing.goOn()
		page, _, err := s.p11.FindObjects(s.handle, 1000)
		if err == nil && len(found) > mostObjects {
			err = fmt.Errorf("it does not end, after %d objects", len(found))
		}
		if err != nil {
			return nil, errors.Join(fromModule("searching", err), s.p11.FindObjectsFinal(s.handle))
		}
		for _, o := range page {
			if !seen[o] {
				seen[o], found = true, append(found, o)
			}
		}
		if len(page) == 0 {
			return found, fromModule("searching", s.p11.FindObjectsFinal(s.handle))
		}
	}
}

// attribute reads one attribute of an object.
func (s *session) attribute(o pkcs11.ObjectHandle, typ uint) ([]byte, error) {
	s.doing.goOn()
	a, err := s.p11.GetAttributeValue(s.handle, o, []*pkcs11.Attribute{pkcs11.NewAttribute(typ, nil)})
	if err != nil {
		return nil, fromModule(fmt.Sprintf("reading attribute %#x", typ), err)
	}
	return a[0].Value, nil
}

// is reads a boolean attribute.
func (s *session) is(o pkcs11.ObjectHandle, typ uint) (bool, error) {
	value, err := s.attribute(o, typ)
	return len(value) == 1 && value[0] == 1, err
}

// mustBe makes sure that a handle is of a half of the key pair with a CKA_ID, which
// is not left to the token where an object is going to be destroyed, or relied on.
func (s *session) mustBe(o pkcs11.ObjectHandle, class uint, id []byte) error {
	isClass, err := s.attribute(o, pkcs11.CKA_CLASS)
	if err != nil {
		return err
	}
	isID, err := s.attribute(o, pkcs11.CKA_ID)
	if err != nil {
		return err
	}
	if number(isClass) != class || !bytes.Equal(isID, id) {
		return s.giveUp(fmt.Errorf("the token gave the handle of another object, with CKA_ID %x, for a half of %x", isID, id))
	}
	return nil
}

// flush is Config.AfterChange.
func (s *session) flush() error {
	if err := s.token.cfg.AfterChange(); err != nil {
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	return nil
}
