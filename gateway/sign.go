package gateway

import (
	"context"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

func asymmetricSign(ctx context.Context, c *call, req *kms.AsymmetricSignRequest) (*kms.AsymmetricSignResponse, error) {
	m := message{parameter: "Digest", bytes: req.Digest}
	s, err := resolveSigning(c, req.KeyId, req.KeyVersionId, req.Algorithm, m)
	if err != nil {
		return nil, err
	}
	signature, err := makeSignature(ctx, c, s)
	if err != nil {
		return nil, err
	}
	return &kms.AsymmetricSignResponse{KeyId: s.version.KeyId, KeyVersionId: s.version.KeyVersionId, Value: signature}, nil
}

func asymmetricVerify(
	ctx context.Context, c *call, req *kms.AsymmetricVerifyRequest,
) (*kms.AsymmetricVerifyResponse, error) {
	m := message{parameter: "Digest", bytes: req.Digest}
	s, err := resolveSigning(c, req.KeyId, req.KeyVersionId, req.Algorithm, m)
	if err != nil {
		return nil, err
	}
	valid, err := verifySignature(ctx, c, s, req.Value)
	if err != nil {
		return nil, err
	}
	return &kms.AsymmetricVerifyResponse{KeyId: s.version.KeyId, KeyVersionId: s.version.KeyVersionId, Value: valid}, nil
}

// A message is what a request has signed or verified: a digest, or a text that the gateway
// hashes.
type message struct {
	parameter string // the name of the parameter that has it
	bytes     []byte
	raw       bool // bytes is a text; otherwise it is a digest
}

// digest returns the digest to sign or verify.
func (m message) digest(key hsm.Key, alg hsm.Algorithm) ([]byte, error) {
	if m.raw {
		return hsm.Digest(key, alg, m.bytes)
	}
	return m.bytes, checkDigest(m.parameter, alg, m.bytes)
}

// A signing is a digest with the key version and the algorithm that sign it.
type signing struct {
	version store.KeyVersion
	alg     hsm.Algorithm
	digest  []byte
}

// resolveSigning resolves the key, version and algorithm of a request to sign or verify m.
// It refuses a request that cannot be carried out. Without a keyVersionId it uses the oldest
// version, without an algorithm the first of the KeySpec.
func resolveSigning(c *call, keyName, keyVersionId, algorithm string, m message) (s signing, err error) {
	c.entry.Algorithm = kms.Clip(algorithm)
	if !m.raw {
		c.entry.Digest = m.bytes[:min(len(m.bytes), kms.MaxEcho)]
	}
	if algorithm != "" && !isAlgorithm(hsm.Algorithm(algorithm)) {
		return s, kms.InvalidParameter("Algorithm", "%q is not a signature algorithm", kms.Clip(algorithm))
	}
	key, err := c.key(keyName)
	if err != nil {
		return s, err
	}
	if s.version, err = c.version(key, keyVersionId); err != nil {
		return s, err
	}
	if err := checkUsable(key.Key); err != nil {
		return s, err
	}
	if s.alg, err = algorithmFor(key.KeySpec, hsm.Algorithm(algorithm)); err != nil {
		return s, err
	}
	if s.digest, err = m.digest(s.version.Key, s.alg); err != nil {
		return s, err
	}
	c.entry.Algorithm, c.entry.Digest = string(s.alg), s.digest
	c.used = &s.version
	return s, nil
}

// makeSignature confirms, and returns the signature. Its audit line is written at the same time.
func makeSignature(ctx context.Context, c *call, s signing) ([]byte, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	if err := intend(c); err != nil {
		return nil, err
	}
	signature, err := c.server.config.Backend.Sign(ctx, s.version.Key, s.alg, s.digest)
	return signature, c.server.pairs.Signed(s.version, err)
}

// verifySignature confirms, and reports whether a signature is valid for a public key that the
// backend has proven.
func verifySignature(ctx context.Context, c *call, s signing, signature []byte) (valid bool, err error) {
	if err := c.confirm(); err != nil {
		return false, err
	}
	if err := c.server.pairs.Prove(ctx, s.version); err != nil {
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

// algorithmFor returns alg if the KeySpec supports it, or the KeySpec's first algorithm if
// alg is empty. The result is not a part of the request, which a token that hangs would keep in memory.
func algorithmFor(spec hsm.KeySpec, alg hsm.Algorithm) (hsm.Algorithm, error) {
	algorithms := hsm.Algorithms(spec)
	if alg == "" && len(algorithms) > 0 {
		return algorithms[0], nil
	}
	i := slices.Index(algorithms, alg)
	if i < 0 {
		return "", kms.InvalidParameter("Algorithm", "the key's KeySpec is %s, which signs with %v", spec, algorithms)
	}
	return algorithms[i], nil
}

// checkDigest checks a digest as hsm.Check does, and returns an error for the client.
func checkDigest(parameter string, alg hsm.Algorithm, digest []byte) error {
	if len(digest) != hsm.DigestSize {
		return kms.InvalidParameter(parameter, "it has %d bytes, but a digest for %s has %d",
			len(digest), alg, hsm.DigestSize)
	}
	return nil
}

// checkUsable refuses a key whose KeyState or KeyUsage does not allow signing.
func checkUsable(key store.Key) error {
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

func getPublicKey(ctx context.Context, c *call, req *kms.GetPublicKeyRequest) (*kms.GetPublicKeyResponse, error) {
	version, err := publicKeyVersion(ctx, c, req.KeyId, req.KeyVersionId)
	if err != nil {
		return nil, err
	}
	return &kms.GetPublicKeyResponse{KeyId: version.KeyId, KeyVersionId: version.KeyVersionId,
		PublicKey: hsm.PublicKeyPEM(version.Key.Public)}, nil
}

// publicKeyVersion confirms, and returns a version whose public key the caller may read and the
// backend has proven.
func publicKeyVersion(ctx context.Context, c *call, keyName, keyVersionId string) (store.KeyVersion, error) {
	key, err := c.key(keyName)
	if err != nil {
		return store.KeyVersion{}, err
	}
	version, err := c.version(key, keyVersionId)
	if err != nil {
		return store.KeyVersion{}, err
	}
	if err := checkUsable(key.Key); err != nil {
		return store.KeyVersion{}, err
	}
	if err := c.confirm(); err != nil {
		return store.KeyVersion{}, err
	}
	c.used = &version
	return version, c.server.pairs.Prove(ctx, version)
}
