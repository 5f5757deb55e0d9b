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

// A generator is how a token makes key pairs of one KeySpec.
type generator struct {
	mechanism uint
	public    func() ([]*pkcs11.Attribute, error)                              // what to ask for, beyond what every key has
	export    func(*p11.Session, pkcs11.ObjectHandle) (spki []byte, err error) // of the public half
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

// publicTemplate and privateTemplate are complete: no attribute is ever changed
// later, because SoftHSM rewrites the key's file in place to do so, and a kill
// at that moment has destroyed 29 keys of 40 (measured).
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
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),    // its value is not to be read …
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false), // … nor wrapped and taken away
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), // it signs digests and does nothing else
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}
}

// undoTimeout is how long a key that failed its test may take to be destroyed.
const undoTimeout = 3 * time.Second

// promised are the attributes that the token must report for a private key
// after making it, whatever it was asked for.
var promised = map[uint]bool{
	pkcs11.CKA_TOKEN:             true,
	pkcs11.CKA_PRIVATE:           true,
	pkcs11.CKA_SENSITIVE:         true,
	pkcs11.CKA_ALWAYS_SENSITIVE:  true,
	pkcs11.CKA_EXTRACTABLE:       false,
	pkcs11.CKA_NEVER_EXTRACTABLE: true,
}

// Generate makes a key pair in the token. It returns after the token's files
// were flushed and the key made a good signature. After an error it has tried to
// destroy what there was, unless ctx was done before.
func (t *Token) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	if _, ok := generators[spec]; !ok {
		return hsm.Key{}, fmt.Errorf("%w: no token makes %q keys", hsm.ErrKeySpec, spec)
	}
	if len(id) != idSize {
		return hsm.Key{}, fmt.Errorf("an id of %d bytes is not one of %d", len(id), idSize)
	}
	begun := false
	key, err := run(ctx, t, t.changesOf(spec), func(s *session) (hsm.Key, error) {
		if begun { // and cut off: half of a key pair may be there, or all of it
			if err := s.destroy(id, s.conn.handles.get(id)); err != nil {
				return hsm.Key{}, err
			}
		}
		if s.conn.handles.get(id) != nil {
			return hsm.Key{}, fmt.Errorf("the token already has a key with CKA_ID %x", id)
		}
		begun = true
		return s.generate(spec, id, labelKey)
	})
	if err != nil {
		return hsm.Key{}, err
	}
	if err := hsm.SelfTest(ctx, hsm.Route{Token: t, Logger: t.log}, key); err != nil {
		undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return hsm.Key{}, errors.Join(fmt.Errorf("%w: the key that it made: %w", hsm.ErrUnavailable, err), t.Destroy(undoing, key))
	}
	return key, nil
}

// generate makes a key pair, checks that the token made what it was asked for,
// and flushes. What it could not complete it destroys.
func (s *session) generate(spec hsm.KeySpec, id []byte, label string) (hsm.Key, error) {
	g := generators[spec]
	parameters, err := g.public()
	if err != nil {
		return hsm.Key{}, err
	}
	public, private, err := s.p11.GenerateKeyPair(g.mechanism,
		append(publicTemplate(id, label), parameters...), privateTemplate(id, label))
	if p11.Is(err, pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_DOMAIN_PARAMS_INVALID, curveNotSupported) {
		return hsm.Key{}, fmt.Errorf("%w: this token makes no %s keys: %w", hsm.ErrKeySpec, spec, p11.Cause(err))
	}
	if err != nil {
		return hsm.Key{}, err
	}
	if err := s.checkHalf(private, pkcs11.CKO_PRIVATE_KEY, id); err != nil {
		return hsm.Key{}, err
	}
	if err := s.checkHalf(public, pkcs11.CKO_PUBLIC_KEY, id); err != nil {
		return hsm.Key{}, err
	}
	key := hsm.Key{ID: slices.Clone(id), Spec: spec}
	if key.Public, err = g.export(s.p11, public); err == nil {
		err = checkPromised(s.p11, private)
	}
	if err == nil {
		err = s.flush()
	}
	if err != nil {
		return hsm.Key{}, errors.Join(err, p11.Cause(s.p11.Destroy(private)), p11.Cause(s.p11.Destroy(public)))
	}
	if label == labelKey {
		s.conn.handles.put(id, private, public)
	}
	return key, nil
}

// curveNotSupported is CKR_CURVE_NOT_SUPPORTED of PKCS#11 2.40, which the
// binding has no name for.
const curveNotSupported pkcs11.Error = 0x140

func checkPromised(s *p11.Session, private pkcs11.ObjectHandle) error {
	for typ, want := range promised {
		got, err := s.Bool(private, typ)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("the token made a private key whose attribute %#x is %v: it does not guard its keys as it must, so the key was destroyed", typ, got)
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
		// PKCS#11 2.40, section 2.3.3, wants the DER of an OCTET STRING;
		// some tokens return the point itself.
		var point []byte
		if rest, err := asn1.Unmarshal(value, &point); err != nil || len(rest) != 0 {
			point = value
		}
		return hsm.MarshalECPublicKey(spec, bytes.Clone(point))
	}
}

// changesOf returns the queue for changes of keys of a KeySpec. A key is made and
// destroyed through the same queue, so that it cannot be destroyed before it is made.
func (t *Token) changesOf(spec hsm.KeySpec) *queue {
	if spec == hsm.RSA_4096 {
		return t.slowChanges
	}
	return t.changes
}

// Destroy destroys both halves of k in the token. It succeeds if they are gone.
func (t *Token) Destroy(ctx context.Context, k hsm.Key) error {
	if len(k.ID) != idSize {
		return fmt.Errorf("an id of %d bytes is not one of %d", len(k.ID), idSize)
	}
	var known *object
	var on *connection // that knows it
	_, err := run(ctx, t, t.changesOf(k.Spec), func(s *session) (struct{}, error) {
		if on != s.conn {
			known, on = s.conn.handles.get(k.ID), s.conn
		}
		return struct{}{}, s.destroy(k.ID, known)
	})
	return err
}

// destroy destroys what the token has with a CKA_ID. What is known of the key on
// this connection is nil if its scan has not found it. A key pair that was made
// here needs no search, which takes 1.2 s among 10,000 keys.
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
		// A session that is not logged in finds nothing either, and SoftHSM can lose one
		// object for this process: it would be there again after the next start.
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

func findHalves(s *p11.Session, class uint, id []byte) ([]pkcs11.ObjectHandle, error) {
	return s.Find(
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, labelKey),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id))
}

// destroyPair destroys the halves of a key pair, the private ones first: a public
// half alone can do no harm. Then it flushes.
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
