package token

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// A storedCounter is what the token has of a Counter: a data object whose value is the number in
// decimal. A kill can leave several objects.
type storedCounter struct {
	n       uint64 // the greatest number
	known   bool   // one of the objects has a number
	objects []pkcs11.ObjectHandle
}

// errNoNumber: the token has data objects with the counter's label, but none of them has a number.
var errNoNumber = fmt.Errorf("no data object with the label %q in the token has a number: something else "+
	"made them (remove them with the token's tools)", labelAudit)

// Counter implements hsm.Counter. It answers from what was found when the token was connected, and from
// what SetCounter has stored since. The worker for changes runs it, so signing continues.
func (t *Token) Counter(ctx context.Context) (n uint64, known bool, err error) {
	c, err := run(ctx, t, t.changes, func(s *session) (storedCounter, error) { return s.conn.counter, nil })
	if err == nil && !c.known && len(c.objects) > 0 {
		err = errNoNumber
	}
	return c.n, c.known, err
}

// SetCounter implements hsm.Counter. It makes a new object and then destroys the earlier ones: no
// attribute of an object is ever changed, because SoftHSM does that in place, and a kill at that
// moment destroys the object.
func (t *Token) SetCounter(ctx context.Context, n uint64) error {
	_, err := run(ctx, t, t.changes, func(s *session) (struct{}, error) { return struct{}{}, setCounter(s, n) })
	return err
}

// scanAudit finds the audit log's key and the counter in one search, because each search takes 1.2 s among
// 10,000 keys on SoftHSM.
func (c *connection) scanAudit(s *session) error {
	found, err := s.p11.Find(pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelAudit))
	if err != nil {
		return fmt.Errorf("scanning the token: %w", err)
	}
	var private []pkcs11.ObjectHandle
	c.counter = storedCounter{}
	for _, o := range found {
		class, err := s.p11.Uint(o, pkcs11.CKA_CLASS)
		switch {
		case p11.Is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID):
			continue // its creation was interrupted
		case p11.Is(err, p11.HandleErrors...):
			private = append(private, o) // scanFound finds out whether it was destroyed
		case err != nil:
			return fmt.Errorf("scanning the token: %w", err)
		case class == pkcs11.CKO_PRIVATE_KEY:
			private = append(private, o)
		case class == pkcs11.CKO_DATA:
			if err := c.counter.add(s, o); err != nil {
				return fmt.Errorf("scanning the token: %w", err)
			}
		}
	}
	return c.audit.scanFound(s, private)
}

// add reads one of the counter's objects. An object that any user of the token can make does not count.
func (c *storedCounter) add(s *session, o pkcs11.ObjectHandle) error {
	private, err := s.p11.Attribute(o, pkcs11.CKA_PRIVATE)
	if err != nil && !p11.Is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
		return err
	}
	if len(private) != 1 || private[0] == 0 {
		return nil
	}
	c.objects = append(c.objects, o)
	value, err := s.p11.Attribute(o, pkcs11.CKA_VALUE)
	if err != nil && !p11.Is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
		return err
	}
	if n, err := strconv.ParseUint(string(value), 10, 64); err == nil {
		c.n, c.known = max(c.n, n), true
	}
	return nil
}

// noDataObjects are the return values of C_CreateObject of tokens that do not store data objects.
var noDataObjects = []pkcs11.Error{
	pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_READ_ONLY,
	pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_ACTION_PROHIBITED,
	pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_TOKEN_WRITE_PROTECTED,
}

// setCounter makes the object with a number, and destroys the others once it is durable.
func setCounter(s *session, n uint64) error {
	old := s.conn.counter
	if old.known && old.n == n && len(old.objects) == 1 {
		return nil
	}
	text := strconv.FormatUint(n, 10)
	made, err := s.p11.Create([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelAudit),
		pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, "kmsgate"),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, text),
	})
	if p11.Is(err, noDataObjects...) {
		return fmt.Errorf("%w: %w", hsm.ErrNoCounter, p11.Cause(err))
	}
	if err != nil {
		return err
	}
	value, err := s.p11.Attribute(made, pkcs11.CKA_VALUE)
	if err != nil {
		return err
	}
	if string(value) != text {
		return p11.Wrap("C_CreateObject", fmt.Errorf("the new object has the value %q, not %q", value, text))
	}
	if err := s.flush(); err != nil {
		return err
	}
	s.conn.counter = storedCounter{n, true, append(slices.Clone(old.objects), made)}
	for _, o := range old.objects {
		if err := s.p11.Destroy(o); err != nil && !p11.Is(err, p11.HandleErrors...) {
			return err
		}
	}
	s.conn.counter.objects = []pkcs11.ObjectHandle{made}
	return s.flush()
}
