package token

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// A generator describes how a token makes key pairs of one KeySpec.
type generator struct {
	mechanism uint

	// public returns the attributes of the public half beyond those of publicTemplate.
	public func() ([]*pkcs11.Attribute, error)

	// export returns the SubjectPublicKeyInfo of the public half with the given handle.
	export func(*p11.Session, pkcs11.ObjectHandle) (spki []byte, err error)
}

var generators = map[hsm.KeySpec]generator{
	hsm.RSA_2048: {pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, rsaParameters(2048), exportRSA},
	hsm.RSA_3072: {pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, rsaParameters(3072), exportRSA},
	hsm.RSA_4096: {pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, rsaParameters(4096), exportRSA},
	hsm.EC_P256:  {pkcs11.CKM_EC_KEY_PAIR_GEN, ecParameters(hsm.EC_P256), exportEC(hsm.EC_P256)},
	hsm.EC_P256K: {pkcs11.CKM_EC_KEY_PAIR_GEN, ecParameters(hsm.EC_P256K), exportEC(hsm.EC_P256K)},
}

func rsaParameters(bits int) func() ([]*pkcs11.Attribute, error) {
	return func() ([]*pkcs11.Attribute, error) {
		return []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, bits),
			pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
		}, nil
	}
}

func ecParameters(spec hsm.KeySpec) func() ([]*pkcs11.Attribute, error) {
	return func() ([]*pkcs11.Attribute, error) {
		oid, err := hsm.CurveOID(spec)
		return []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, oid)}, err
	}
}

// publicTemplate and privateTemplate are complete, so that no attribute is ever changed
// later. SoftHSM changes an attribute by rewriting the key's file in place, and a kill at
// that moment destroyed 29 keys of 40 (measured).
func publicTemplate(id []byte, label string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
	}
}

func privateTemplate(id []byte, label string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),    // its value cannot be read …
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false), // … or wrapped
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), // the only use of the key
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}
}

// undoTimeout is the time limit for destroying a key that failed its test.
const undoTimeout = 3 * time.Second

// promised are the attributes that the token must report for a new private key. The token
// may have ignored the template.
var promised = map[uint]bool{
	pkcs11.CKA_TOKEN:             true,
	pkcs11.CKA_PRIVATE:           true,
	pkcs11.CKA_SENSITIVE:         true,
	pkcs11.CKA_ALWAYS_SENSITIVE:  true,
	pkcs11.CKA_EXTRACTABLE:       false,
	pkcs11.CKA_NEVER_EXTRACTABLE: true,
}

// Generate makes a key pair in the token. It returns after the token's files have been
// flushed and the key has made a good signature. On an error, it tries to destroy the key
// pair, unless ctx was done before.
func (t *Token) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	return generate(ctx, t, labelKey, spec, id)
}

// generate makes a key pair for a use, which is its label.
func generate(ctx context.Context, t *Token, use string, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	if _, ok := generators[spec]; !ok {
		return hsm.Key{}, fmt.Errorf("%w: a token cannot make keys of KeySpec %q", hsm.ErrKeySpec, spec)
	}
	var b hsm.Backend = t
	if use == labelAudit {
		b = t.Audit()
	}
	return makePair(ctx, t, b, spec, id, func(s *session) (hsm.Key, error) { return s.generate(spec, id, use) })
}

// makePair makes a key pair by calling f, and tests it with b.
func makePair(ctx context.Context, t *Token, b hsm.Backend, spec hsm.KeySpec, id []byte, f func(*session) (hsm.Key, error)) (hsm.Key, error) {
	if len(id) != idSize {
		return hsm.Key{}, fmt.Errorf("making a key: the id has %d bytes, not %d", len(id), idSize)
	}
	begun := false
	key, err := run(ctx, t, changeQueue(t, spec), func(s *session) (hsm.Key, error) {
		if begun { // the previous try was interrupted and may have left one half or both
			if err := s.destroy(id, s.conn.known(id)); err != nil {
				return hsm.Key{}, err
			}
		}
		if s.conn.known(id) != nil {
			return hsm.Key{}, fmt.Errorf("the token already has a key with CKA_ID %x", id)
		}
		begun = true
		return f(s)
	})
	if err != nil {
		return hsm.Key{}, err
	}
	if err := hsm.SelfTest(patient(ctx), hsm.Route{Token: b, Logger: t.log}, key); err != nil {
		undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		err = fmt.Errorf("%w: the new key failed its test: %w", hsm.ErrUnavailable, err)
		return hsm.Key{}, errors.Join(err, t.Destroy(undoing, key))
	}
	return key, nil
}

// generate makes a key pair, and keeps it.
func (s *session) generate(spec hsm.KeySpec, id []byte, label string) (hsm.Key, error) {
	g := generators[spec]
	parameters, err := g.public()
	if err != nil {
		return hsm.Key{}, err
	}
	public, private, err := s.p11.GenerateKeyPair(g.mechanism,
		append(publicTemplate(id, label), parameters...), privateTemplate(id, label))
	if p11.Is(err, pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_DOMAIN_PARAMS_INVALID, curveNotSupported) {
		return hsm.Key{}, fmt.Errorf("%w: this token cannot make %s keys: %w", hsm.ErrKeySpec, spec, p11.Cause(err))
	}
	if err != nil {
		return hsm.Key{}, err
	}
	return s.keep(spec, id, label, public, private, promised)
}

// keep checks the halves of a new key pair, and that its private half has attributes, and flushes. If
// one of these steps fails, it destroys the key pair.
func (s *session) keep(spec hsm.KeySpec, id []byte, label string, public, private pkcs11.ObjectHandle, want map[uint]bool) (hsm.Key, error) {
	if err := s.checkHalf(private, pkcs11.CKO_PRIVATE_KEY, id); err != nil {
		return hsm.Key{}, err
	}
	if err := s.checkHalf(public, pkcs11.CKO_PUBLIC_KEY, id); err != nil {
		return hsm.Key{}, err
	}
	key := hsm.Key{ID: slices.Clone(id), Spec: spec}
	var err error
	if key.Public, err = generators[spec].export(s.p11, public); err == nil {
		err = checkPromised(s.p11, private, want)
	}
	if err == nil {
		err = s.flush()
	}
	if err != nil {
		return hsm.Key{}, errors.Join(err, p11.Cause(s.p11.Destroy(private)), p11.Cause(s.p11.Destroy(public)))
	}
	switch label {
	case labelKey:
		s.conn.handles.put(id, private, public)
	case labelAudit:
		s.conn.audit.put(id, private, public)
	}
	return key, nil
}

// curveNotSupported is CKR_CURVE_NOT_SUPPORTED of PKCS#11 2.40, which the
// binding does not define.
const curveNotSupported pkcs11.Error = 0x140

// checkPromised returns an error unless a private key has the promised attributes.
func checkPromised(s *p11.Session, private pkcs11.ObjectHandle, promised map[uint]bool) error {
	for typ, want := range promised {
		got, err := s.Bool(private, typ)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("the token made an unprotected private key (attribute %#x is %v); the key was destroyed", typ, got)
		}
	}
	return nil
}

func exportRSA(s *p11.Session, public pkcs11.ObjectHandle) ([]byte, error) {
	modulus, err := s.Attribute(public, pkcs11.CKA_MODULUS)
	if err != nil {
		return nil, err
	}
	exponent, err := s.Attribute(public, pkcs11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(&rsa.PublicKey{
		N: new(big.Int).SetBytes(modulus),
		E: int(new(big.Int).SetBytes(exponent).Int64()),
	})
}

func exportEC(spec hsm.KeySpec) func(*p11.Session, pkcs11.ObjectHandle) ([]byte, error) {
	return func(s *p11.Session, public pkcs11.ObjectHandle) ([]byte, error) {
		value, err := s.Attribute(public, pkcs11.CKA_EC_POINT)
		if err != nil {
			return nil, err
		}
		// PKCS#11 2.40, section 2.3.3, requires the DER of an OCTET STRING, but
		// some tokens return the point itself.
		var point []byte
		if rest, err := asn1.Unmarshal(value, &point); err != nil || len(rest) != 0 {
			point = value
		}
		return hsm.MarshalECPublicKey(spec, bytes.Clone(point))
	}
}

// changeQueue returns the queue for changes of keys of a KeySpec. A key is made and
// destroyed through the same queue, so that it cannot be destroyed before it is made.
func changeQueue(t *Token, spec hsm.KeySpec) *queue {
	if spec == hsm.RSA_4096 {
		return t.slowChanges
	}
	return t.changes
}

// Destroy destroys both halves of k in the token, whatever k is for. It succeeds if they are
// already gone. The error is hsm.ErrReserved if k is reserved for the audit log.
func (t *Token) Destroy(ctx context.Context, k hsm.Key) error {
	if len(k.ID) != idSize {
		return fmt.Errorf("destroying a key: the id has %d bytes, not %d", len(k.ID), idSize)
	}
	if err := errReserved(t, k.ID); err != nil {
		return err
	}
	var known *object
	var conn *connection // the connection whose table known is from
	_, err := run(ctx, t, changeQueue(t, k.Spec), func(s *session) (struct{}, error) {
		if conn != s.conn {
			known, conn = s.conn.known(k.ID), s.conn
		}
		return struct{}{}, s.destroy(k.ID, known)
	})
	return err
}

// destroy destroys the key pair with a CKA_ID. known is the key's object on this connection,
// or nil if the scan has not found it. A key pair made on this connection needs no search,
// which takes 1.2 s among 10,000 keys.
func (s *session) destroy(id []byte, known *object) error {
	s.conn.forgetHandle(id)
	if known != nil {
		known.search.Lock()
		defer known.search.Unlock()
	}
	if known != nil && known.public != 0 {
		err := s.destroyPair(id, []pkcs11.ObjectHandle{known.handle}, []pkcs11.ObjectHandle{known.public})
		if !p11.Is(err, p11.HandleErrors...) {
			return err
		}
	}
	private, err := findHalves(s.p11, pkcs11.CKO_PRIVATE_KEY, id)
	if err != nil {
		return err
	}
	if len(private) == 0 {
		// A session that is not logged in finds nothing either, and SoftHSM can hide one
		// object from this process. It would reappear after the next start.
		if err := s.checkAlive(); err != nil {
			return err
		}
		if known != nil {
			if err := s.checkPairGone(id); err != nil {
				return err
			}
		}
	}
	public, err := findHalves(s.p11, pkcs11.CKO_PUBLIC_KEY, id)
	if err != nil {
		return err
	}
	return s.destroyPair(id, private, public)
}

// findHalves finds the halves of one class of the key pairs with a CKA_ID that are for signing or
// for the audit log.
func findHalves(s *p11.Session, class uint, id []byte) (halves []pkcs11.ObjectHandle, err error) {
	found, err := s.Find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil {
		return nil, err
	}
	for _, o := range found { // reading a label is cheaper than a second search
		label, err := s.Attribute(o, pkcs11.CKA_LABEL)
		if err != nil && !p11.Is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
			return nil, err
		}
		if string(label) == labelKey || string(label) == labelAudit {
			halves = append(halves, o)
		}
	}
	return halves, nil
}

// destroyPair destroys the halves of a key pair and flushes. It destroys the private halves
// first, since a public half alone is harmless.
func (s *session) destroyPair(id []byte, private, public []pkcs11.ObjectHandle) error {
	for _, o := range private {
		if err := s.destroyHalf(o, pkcs11.CKO_PRIVATE_KEY, id); err != nil {
			return err
		}
	}
	for _, o := range public {
		if err := s.destroyHalf(o, pkcs11.CKO_PUBLIC_KEY, id); err != nil {
			return err
		}
	}
	return s.flush()
}

func (s *session) destroyHalf(o pkcs11.ObjectHandle, class uint, id []byte) error {
	if err := s.checkHalf(o, class, id); err != nil {
		return err
	}
	return s.p11.Destroy(o)
}
