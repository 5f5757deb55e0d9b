package token

import (
	"bytes"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// otherSessions is the number of sessions beyond Config.Sessions: two hold the login and the
// module, one makes a key in crypto11, two are for changes, one is the copier's, the others the watchdog's.
const otherSessions = 6 + probers

// A session is a PKCS#11 session of a connection. It belongs to one goroutine.
type session struct {
	conn *connection
	p11  *p11.Session
}

func (c *connection) openSession() (*session, error) {
	s, err := c.token.module.Open(c.slot)
	if p11.Is(err, pkcs11.CKR_SESSION_COUNT) {
		err = fmt.Errorf("%w (kmsgate needs %d sessions; reduce token.sessions)", err, c.token.cfg.Sessions+otherSessions)
	}
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	return &session{c, s}, nil
}

// loseConnection abandons the connection because of an error that the canary key does not
// detect. It returns an error that ends the job on this connection.
func (s *session) loseConnection(err error) error {
	s.conn.lose(err)
	return p11.Wrap("abandoning the connection", err)
}

// checkHalf checks that a handle is that of one half of the key pair with a CKA_ID. It must be
// called before an object is destroyed or relied on, since a token may return a wrong handle.
func (s *session) checkHalf(o pkcs11.ObjectHandle, class uint, id []byte) error {
	gotClass, err := s.p11.Uint(o, pkcs11.CKA_CLASS)
	if err != nil {
		return err
	}
	gotID, err := s.p11.Attribute(o, pkcs11.CKA_ID)
	if err != nil {
		return err
	}
	if gotClass != class || !bytes.Equal(gotID, id) {
		return s.loseConnection(fmt.Errorf("the token returned the handle of another object, with CKA_ID %x, for half of %x",
			gotID, id))
	}
	return nil
}

// flush calls Config.AfterChange.
func (s *session) flush() error {
	if err := s.conn.token.module.Call("Config.AfterChange", s.conn.token.cfg.AfterChange); err != nil {
		return fmt.Errorf("%w: making a change durable: %w", hsm.ErrUnavailable, err)
	}
	return nil
}
