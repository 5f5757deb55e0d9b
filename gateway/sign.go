package gateway

import (
	"context"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

func asymmetricSign(ctx context.Context, c *call, req *kms.AsymmetricSignRequest) (*kms.AsymmetricSignResponse, error) {
	s, err := resolveSigning(c, req.KeyId, req.KeyVersionId, req.Algorithm, message{parameter: "Digest", bytes: req.Digest})
	if err != nil {
		return nil, err
	}
	signature, err := makeSignature(ctx, c, s)
	if err != nil {
		return nil, err
	}
	return &kms.AsymmetricSignResponse{KeyId: s.version.KeyId, KeyVersionId: s.version.KeyVersionId, Value: signature}, nil
}

func asymmetricVerify(_ context.Context, c *call, req *kms.AsymmetricVerifyRequest) (*kms.AsymmetricVerifyResponse, error) {
	s, err := resolveSigning(c, req.KeyId, req.KeyVersionId, req.Algorithm, message{parameter: "Digest", bytes: req.Digest})
	if err != nil {
		return nil, err
	}
	valid, err := verifySignature(c, s, req.Value)
	if err != nil {
		return nil, err
	}
	return &kms.AsymmetricVerifyResponse{KeyId: s.version.KeyId, KeyVersionId: s.version.KeyVersionId, Value: valid}, nil
}

// A message is what is signed: a digest, or what is hashed to one here.
type message struct {
	parameter string // that it was sent as
	bytes     []byte
	raw       bool
}

// digest gives what goes into the signature.
func (m message) digest(key hsm.Key, alg hsm.Algorithm) ([]byte, error) {
	if m.raw {
		return hsm.Digest(key, alg, m.bytes)
	}
	return m.bytes, checkDigest(m.parameter, alg, m.bytes)
}

// A signing is a digest and what it is signed with.
type signing struct {
	version store.KeyVersion
	alg     hsm.Algorithm
	digest  []byte
}

// resolveSigning resolves what a request names that has something signed or verified, and
// refuses what cannot be. No KeyVersionId means the oldest version, no algorithm the
// first of the KeySpec.
func resolveSigning(c *call, keyName, keyVersionId, algorithm string, m message) (s signing, err error) {
	c.entry.Algorithm = kms.Clip(algorithm)
	if !m.raw {
		c.entry.Digest = m.bytes[:min(len(m.bytes), kms.MaxEcho)]
	}
	if algorithm != "" && !isAlgorithm(hsm.Algorithm(algorithm)) {
		return s, kms.InvalidParameter("Algorithm", "%q is no signature algorithm", kms.Clip(algorithm))
	}
	key, err := c.key(keyName)
	if err != nil {
		return s, err
	}
	if s.version, err = c.version(key, keyVersionId); err != nil {
		return s, err
	}
	if err := usable(key.Key); err != nil {
		return s, err
	}
	if s.alg, err = algorithmFor(key.KeySpec, hsm.Algorithm(algorithm)); err != nil {
		return s, err
	}
	if s.digest, err = m.digest(s.version.Key, s.alg); err != nil {
		return s, err
	}
	c.entry.Algorithm, c.entry.Digest = string(s.alg), s.digest
	return s, nil
}

// makeSignature makes the signature.
func makeSignature(ctx context.Context, c *call, s signing) ([]byte, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	return c.server.config.Backend.Sign(ctx, s.version.Key, s.alg, s.digest)
}

// verifySignature judges a signature.
func verifySignature(c *call, s signing, signature []byte) (valid bool, err error) {
	if err := c.confirm(); err != nil {
		return false, err
	}
	if valid, err = hsm.Verify(s.version.Key, s.alg, s.digest, signature); err != nil {
		return false, err
	}
	c.entry.Valid = &valid
	return valid, nil
}

func isAlgorithm(alg hsm.Algorithm) bool {
	return slices.ContainsFunc(hsm.KeySpecs(), func(spec hsm.KeySpec) bool {
		return slices.Contains(hsm.Algorithms(spec), alg)
	})
}

// algorithmFor gives alg, or the KeySpec's first one for none.
func algorithmFor(spec hsm.KeySpec, alg hsm.Algorithm) (hsm.Algorithm, error) {
	fitting := hsm.Algorithms(spec)
	if alg == "" && len(fitting) > 0 {
		return fitting[0], nil
	}
	if !slices.Contains(fitting, alg) {
		return "", kms.InvalidParameter("Algorithm", "the key's KeySpec is %s, which signs with %v", spec, fitting)
	}
	return alg, nil
}

// checkDigest is the part of hsm.Check that is about the digest, with a message for
// the client.
func checkDigest(parameter string, alg hsm.Algorithm, digest []byte) error {
	if len(digest) != hsm.DigestSize {
		return kms.InvalidParameter(parameter, "it is %d bytes, not the %d of a digest for %s", len(digest), hsm.DigestSize, alg)
	}
	return nil
}

// usable refuses a key that is in no state to sign, or not for signing.
func usable(key store.Key) error {
	switch key.KeyState {
	case store.Enabled:
	case store.Disabled:
		return kms.ErrKeyDisabled
	case store.PendingDeletion:
		return kms.ErrKeyPendingDeletion
	case store.PendingImport:
		return kms.ErrKeyPendingImport
	default:
		return kms.ErrKeyUnavailable
	}
	if key.KeyUsage != signVerify {
		return kms.ErrUnsupportedOperation.Because("The key's usage is %s.", key.KeyUsage)
	}
	return nil
}

func getPublicKey(_ context.Context, c *call, req *kms.GetPublicKeyRequest) (*kms.GetPublicKeyResponse, error) {
	version, err := publicKeyVersion(c, req.KeyId, req.KeyVersionId)
	if err != nil {
		return nil, err
	}
	return &kms.GetPublicKeyResponse{KeyId: version.KeyId, KeyVersionId: version.KeyVersionId, PublicKey: hsm.PublicKeyPEM(version.Key.Public)}, nil
}

// publicKeyVersion gives a version whose public key may be shown.
func publicKeyVersion(c *call, keyName, keyVersionId string) (store.KeyVersion, error) {
	key, err := c.key(keyName)
	if err != nil {
		return store.KeyVersion{}, err
	}
	version, err := c.version(key, keyVersionId)
	if err != nil {
		return store.KeyVersion{}, err
	}
	if err := usable(key.Key); err != nil {
		return store.KeyVersion{}, err
	}
	return version, c.confirm()
}
