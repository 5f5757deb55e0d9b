package token

import (
	"context"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"math/big"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// Import is Generate with an existing key pair. It is for tests that need the same public key
// everywhere: the token then reports that the key was outside, and protects no other copy of it.
func (t *Token) Import(ctx context.Context, k privatekey.Key, id []byte) (hsm.Key, error) {
	if _, ok := generators[k.Spec()]; !ok {
		return hsm.Key{}, fmt.Errorf("%w: a token cannot use keys of KeySpec %q", hsm.ErrKeySpec, k.Spec())
	}
	return makePair(ctx, t, t, k.Spec(), id, func(s *session) (hsm.Key, error) { return s.create(k, id) })
}

// create creates the halves of an existing key pair, and keeps them.
func (s *session) create(k privatekey.Key, id []byte) (hsm.Key, error) {
	publicPart, privatePart, err := importTemplates(k)
	if err != nil {
		return hsm.Key{}, err
	}
	private, err := s.p11.Create(append(privateTemplate(id, labelKey), privatePart...))
	if err != nil {
		return hsm.Key{}, err
	}
	public, err := s.p11.Create(append(publicTemplate(id, labelKey), publicPart...))
	if err != nil {
		return hsm.Key{}, errors.Join(err, p11.Cause(s.p11.Destroy(private)))
	}
	want := maps.Clone(promised)
	delete(want, pkcs11.CKA_ALWAYS_SENSITIVE)
	delete(want, pkcs11.CKA_NEVER_EXTRACTABLE)
	return s.keep(k.Spec(), id, labelKey, public, private, want)
}

// importTemplates returns the attributes with the values of a key pair (PKCS#11 2.40 mechanisms, 2.1.3
// and 2.3.4).
func importTemplates(k privatekey.Key) (public, private []*pkcs11.Attribute, err error) {
	if r := k.RSA(); r != nil {
		number := func(typ uint, n *big.Int) *pkcs11.Attribute { return pkcs11.NewAttribute(typ, n.Bytes()) }
		modulus, exponent := number(pkcs11.CKA_MODULUS, r.N), number(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(r.E)))
		kind := pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA)
		r.Precompute()
		return []*pkcs11.Attribute{kind, modulus, exponent}, []*pkcs11.Attribute{kind, modulus, exponent,
			number(pkcs11.CKA_PRIVATE_EXPONENT, r.D), number(pkcs11.CKA_PRIME_1, r.Primes[0]), number(pkcs11.CKA_PRIME_2, r.Primes[1]),
			number(pkcs11.CKA_EXPONENT_1, r.Precomputed.Dp), number(pkcs11.CKA_EXPONENT_2, r.Precomputed.Dq),
			number(pkcs11.CKA_COEFFICIENT, r.Precomputed.Qinv)}, nil
	}
	curve, err := hsm.CurveOID(k.Spec())
	if err != nil {
		return nil, nil, err
	}
	point, err := hsm.ParseECPublicKey(k.Spec(), k.Public())
	if err != nil {
		return nil, nil, err
	}
	encoded, err := asn1.Marshal(point)
	if err != nil {
		return nil, nil, err
	}
	kind, parameters := pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curve)
	return []*pkcs11.Attribute{kind, parameters, pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, encoded)},
		[]*pkcs11.Attribute{kind, parameters, pkcs11.NewAttribute(pkcs11.CKA_VALUE, k.Scalar())}, nil
}
