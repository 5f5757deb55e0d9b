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

// probeSealing determines how provisioning would seal. It tests with keys that end with the
// session. It returns an empty string if neither method works.
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
		_ = s.Destroy(handle) // on error, the key ends with the session
		if err == nil {
			return key.method(), nil
		}
		// The failure may have left an operation active in the session.
		if err := s.Renew(); err != nil {
			return "", err
		}
	}
	return "", nil
}

// offers tests for each KeySpec whether the token makes such keys. RSA keys beyond 2048
// bits can take seconds to make, so for those it trusts the token's list of mechanisms.
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

// trustMechanisms returns an error unless the token lists RSA keys of the given number of
// bits.
func trustMechanisms(mechanisms []hsm.Mechanism, bits uint) error {
	i := slices.IndexFunc(mechanisms, func(m hsm.Mechanism) bool { return m.ID == pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN })
	if i < 0 {
		return errors.New("the token does not list CKM_RSA_PKCS_KEY_PAIR_GEN")
	}
	if largest := mechanisms[i].MaxKeySize; largest < bits {
		return fmt.Errorf("the token lists RSA keys of up to %d bits only", largest)
	}
	return nil
}

// tryKeySpec makes a key pair that ends with the session, signs with it under each algorithm,
// and verifies the signatures. It returns how long making the pair and signing took.
func tryKeySpec(s *p11.Session, spec hsm.KeySpec) (generate, sign time.Duration, err error) {
	g := generators[spec]
	parameters, err := g.public()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	public, private, err := s.GenerateKeyPair(g.mechanism,
		append(inSession(publicTemplate(nil, labelTrial)), parameters...), inSession(privateTemplate(nil, labelTrial)))
	if err != nil {
		return 0, 0, err
	}
	generate = time.Since(began)
	defer func() {
		_ = s.Destroy(private) // on error, the pair ends with the session
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

// inSession changes a template to that of a session object without CKA_ID.
func inSession(template []*pkcs11.Attribute) []*pkcs11.Attribute {
	template = slices.DeleteFunc(template, func(a *pkcs11.Attribute) bool {
		return a.Type == pkcs11.CKA_TOKEN || a.Type == pkcs11.CKA_ID
	})
	return append(template, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false))
}

// trySigning makes and verifies several signatures. It returns the median time of one.
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
			return 0, fmt.Errorf("signing with %s: %w", alg, err)
		}
		times = append(times, time.Since(began))
		sig, err := m.output(raw)
		if err == nil {
			err = check(key, alg, digest, sig)
		}
		if err != nil {
			return 0, fmt.Errorf("verifying a signature with %s: %w", alg, err)
		}
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}
