package token

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
)

// wouldSeal tries how provisioning would seal, with keys that end with the
// session.
func (s *session) wouldSeal() (string, error) {
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
		handle, err := s.p11.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(kind.mechanism, nil)}, append(kind.template,
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, derivedSize)))
		if err != nil {
			continue
		}
		s.sealing = sealingKey{id: make([]byte, idSize), handle: handle, format: kind.format}
		err = s.testSealing()
		_ = s.p11.DestroyObject(s.handle, handle) // it ends with the session
		if err == nil {
			return s.sealing.way(), nil
		}
		// What failed may have left the session with an operation half done.
		if err := s.renew(); err != nil {
			return "", err
		}
	}
	return "", nil
}

// offers tries for each KeySpec whether its keys can be had. RSA keys beyond 2048
// bits take up to seconds to make, so of those it is believed what the token
// says.
func (s *session) offers(mechanisms []hsm.Mechanism) (all []hsm.Offer, err error) {
	for _, spec := range hsm.KeySpecs() {
		o := hsm.Offer{KeySpec: spec}
		bits := rsaBits[spec]
		switch _, inToken := generators[spec]; {
		case !inToken:
			o.Offered, o.Software = true, true
		case bits > 2048:
			err = believe(mechanisms, bits)
		default:
			o.Generate, o.Sign, err = s.try(spec)
		}
		if o.Offered = err == nil; err != nil {
			o.Reason = err.Error()
			if err := s.renew(); err != nil {
				return nil, err
			}
		}
		all, err = append(all, o), nil
	}
	return all, nil
}

var rsaBits = map[hsm.KeySpec]uint{hsm.RSA_2048: 2048, hsm.RSA_3072: 3072, hsm.RSA_4096: 4096}

func believe(mechanisms []hsm.Mechanism, bits uint) error {
	i := slices.IndexFunc(mechanisms, func(m hsm.Mechanism) bool { return m.ID == pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN })
	if i < 0 {
		return errors.New("the token does not list CKM_RSA_PKCS_KEY_PAIR_GEN")
	}
	if most := mechanisms[i].MaxKeySize; most < bits {
		return fmt.Errorf("the token says that it makes RSA keys up to %d bits", most)
	}
	return nil
}

// try makes a key pair that ends with the session, and has it sign with each
// algorithm.
func (s *session) try(spec hsm.KeySpec) (generate, sign time.Duration, err error) {
	g := generators[spec]
	parameters, err := g.public()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	public, private, err := s.p11.GenerateKeyPair(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(g.mechanism, nil)},
		append(inSession(publicTemplate(nil, "kmsgate-trial")), parameters...), inSession(privateTemplate(nil, "kmsgate-trial")))
	if err != nil {
		return 0, 0, fromModule("C_GenerateKeyPair", err)
	}
	generate = time.Since(began)
	defer func() {
		_ = s.p11.DestroyObject(s.handle, private) // they end with the session
		_ = s.p11.DestroyObject(s.handle, public)
	}()
	key := hsm.Key{Spec: spec}
	if key.Public, err = g.export(s, public); err != nil {
		return 0, 0, err
	}
	for _, alg := range hsm.Algorithms(spec) {
		if sign, err = s.trySigning(key, private, alg); err != nil {
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

// trySigning gives the median time of a signature.
func (s *session) trySigning(key hsm.Key, private pkcs11.ObjectHandle, alg hsm.Algorithm) (time.Duration, error) {
	const tries = 5
	m := mechanisms[alg]
	var times []time.Duration
	for range tries {
		digest := make([]byte, hsm.DigestSize)
		rand.Read(digest)
		began := time.Now()
		raw, err := s.signRaw(private, m, digest)
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
