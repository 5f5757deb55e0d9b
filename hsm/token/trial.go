package token

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// probeSealing tries how provisioning would seal, with keys that end with the
// session. It returns nothing if neither way works.
func probeSealing(s *p11.Session) (string, error) {
	for _, kind := range []struct {
		format    byte
		mechanism uint
		template  []*pkcs11.Attribute
	}{
		{formatGCM, pkcs11.CKM_AES_KEY_GEN, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true)}},
		{formatHMAC, pkcs11.CKM_GENERIC_SECRET_KEY_GEN, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
			pkcs11.NewAttribute(pkcs11.CKA_SIGN, true)}},
	} {
		handle, err := s.GenerateKey(kind.mechanism, append(kind.template,
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, derivedSize)))
		if err != nil {
			continue
		}
		key := sealingKey{id: make([]byte, idSize), handle: handle, format: kind.format}
		err = key.try(s)
		_ = s.Destroy(handle) // it ends with the session
		if err == nil {
			return key.way(), nil
		}
		// What failed may have left the session with an operation half done.
		if err := s.Renew(); err != nil {
			return "", err
		}
	}
	return "", nil
}

// offers tries for each KeySpec whether the token makes such keys. RSA keys beyond 2048
// bits take up to seconds to make, so for those the token's list is trusted.
func offers(s *p11.Session, mechanisms []hsm.Mechanism) (all []hsm.Offer, err error) {
	for _, spec := range hsm.KeySpecs() {
		o := hsm.Offer{KeySpec: spec}
		bits := rsaBits[spec]
		switch _, inToken := generators[spec]; {
		case !inToken:
			o.Offered, o.Software = true, true
		case bits > 2048:
			err = trustMechanisms(mechanisms, bits)
		default:
			o.Generate, o.Sign, err = tryKeySpec(s, spec)
		}
		if o.Offered = err == nil; err != nil {
			o.Reason = err.Error()
			if err := s.Renew(); err != nil {
				return nil, err
			}
		}
		all, err = append(all, o), nil
	}
	return all, nil
}

var rsaBits = map[hsm.KeySpec]uint{hsm.RSA_2048: 2048, hsm.RSA_3072: 3072, hsm.RSA_4096: 4096}

// trustMechanisms reports an error if the token does not list RSA keys of so many bits.
func trustMechanisms(mechanisms []hsm.Mechanism, bits uint) error {
	i := slices.IndexFunc(mechanisms, func(m hsm.Mechanism) bool { return m.ID == pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN })
	if i < 0 {
		return errors.New("the token does not list CKM_RSA_PKCS_KEY_PAIR_GEN")
	}
	if largest := mechanisms[i].MaxKeySize; largest < bits {
		return fmt.Errorf("the token says that it makes RSA keys up to %d bits", largest)
	}
	return nil
}

// tryKeySpec makes a key pair that ends with the session, has it sign with each
// algorithm, and verifies the signatures.
func tryKeySpec(s *p11.Session, spec hsm.KeySpec) (generate, sign time.Duration, err error) {
	g := generators[spec]
	parameters, err := g.public()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	public, private, err := s.GenerateKeyPair(g.mechanism,
		append(inSession(publicTemplate(nil, "kmsgate-trial")), parameters...), inSession(privateTemplate(nil, "kmsgate-trial")))
	if err != nil {
		return 0, 0, err
	}
	generate = time.Since(began)
	defer func() {
		_ = s.Destroy(private) // they end with the session
		_ = s.Destroy(public)
	}()
	key := hsm.Key{Spec: spec}
	if key.Public, err = g.export(s, public); err != nil {
		return 0, 0, err
	}
	for _, alg := range hsm.Algorithms(spec) {
		if sign, err = trySigning(s, key, private, alg); err != nil {
			return 0, 0, err
		}
	}
	return generate, sign, nil
}

// inSession makes a template one of a session object without CKA_ID.
func inSession(template []*pkcs11.Attribute) []*pkcs11.Attribute {
	template = slices.DeleteFunc(template, func(a *pkcs11.Attribute) bool { return a.Type == pkcs11.CKA_TOKEN || a.Type == pkcs11.CKA_ID })
	return append(template, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false))
}

// trySigning returns the median time of a signature.
func trySigning(s *p11.Session, key hsm.Key, private pkcs11.ObjectHandle, alg hsm.Algorithm) (time.Duration, error) {
	const tries = 5
	m := mechanisms[alg]
	var times []time.Duration
	for range tries {
		digest := make([]byte, hsm.DigestSize)
		rand.Read(digest)
		began := time.Now()
		raw, err := m.sign(s, private, digest)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", alg, err)
		}
		times = append(times, time.Since(began))
		sig, err := m.output(raw)
		if err == nil {
			err = check(key, alg, digest, sig)
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w", alg, err)
		}
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}
