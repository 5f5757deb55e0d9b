package gateway

import (
	"context"
	"slices"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

type asymmetricSignRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
	Algorithm    string `kms:"required"`
	Digest       []byte `kms:"required"`
}

type asymmetricSignResponse struct {
	result
	KeyId        string
	KeyVersionId string
	Value        base64Bytes
}

func asymmetricSign(ctx context.Context, c *call, req *asymmetricSignRequest) (*asymmetricSignResponse, error) {
	version, alg, err := c.signingKey(req.KeyId, req.KeyVersionId, req.Algorithm, req.Digest)
	if err != nil {
		return nil, err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	signature, err := c.server.Backend.Sign(ctx, version.Key, alg, req.Digest)
	if err != nil {
		return nil, err
	}
	return &asymmetricSignResponse{KeyId: version.KeyId, KeyVersionId: version.KeyVersionId, Value: signature}, nil
}

type asymmetricVerifyRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
	Algorithm    string `kms:"required"`
	Digest       []byte `kms:"required"`
	Value        []byte `kms:"required"`
}

type asymmetricVerifyResponse struct {
	result
	KeyId        string
	KeyVersionId string
	Value        bool
}

func asymmetricVerify(_ context.Context, c *call, req *asymmetricVerifyRequest) (*asymmetricVerifyResponse, error) {
	version, alg, err := c.signingKey(req.KeyId, req.KeyVersionId, req.Algorithm, req.Digest)
	if err != nil {
		return nil, err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	valid, err := hsm.Verify(version.Key, alg, req.Digest, req.Value)
	if err != nil {
		return nil, err
	}
	c.entry.Valid = &valid
	return &asymmetricVerifyResponse{KeyId: version.KeyId, KeyVersionId: version.KeyVersionId, Value: valid}, nil
}

// signingKey resolves what AsymmetricSign and AsymmetricVerify name, and
// refuses what cannot be signed.
func (c *call) signingKey(keyName, keyVersionId, algorithm string, digest []byte) (store.KeyVersion, hsm.Algorithm, error) {
	c.entry.Algorithm, c.entry.Digest = clip(algorithm), digest[:min(len(digest), maxEcho)]
	alg := hsm.Algorithm(algorithm)
	if !isAlgorithm(alg) {
		return store.KeyVersion{}, "", invalidParameter("Algorithm", "%q is no signature algorithm", clip(algorithm))
	}
	key, err := c.key(keyName)
	if err != nil {
		return store.KeyVersion{}, "", err
	}
	version, err := c.version(key, keyVersionId)
	if err != nil {
		return store.KeyVersion{}, "", err
	}
	if err := usable(key); err != nil {
		return store.KeyVersion{}, "", err
	}
	return version, alg, checkDigest(key.KeySpec, alg, digest)
}

func isAlgorithm(alg hsm.Algorithm) bool {
	return slices.ContainsFunc(hsm.KeySpecs(), func(spec hsm.KeySpec) bool {
		return slices.Contains(hsm.Algorithms(spec), alg)
	})
}

// checkDigest is hsm.Check with messages for the client.
func checkDigest(spec hsm.KeySpec, alg hsm.Algorithm, digest []byte) error {
	if !slices.Contains(hsm.Algorithms(spec), alg) {
		return invalidParameter("Algorithm", "the key's KeySpec is %s, which signs with %v", spec, hsm.Algorithms(spec))
	}
	if hsm.Check(spec, alg, digest) != nil {
		return invalidParameter("Digest", "it is %d bytes, not the %d of a digest for %s", len(digest), hsm.DigestSize, alg)
	}
	return nil
}

// usable refuses a key that is in no state to sign, or not for signing.
func usable(key store.Key) error {
	switch key.KeyState {
	case store.Enabled:
	case store.Disabled:
		return errKeyDisabled
	case store.PendingDeletion:
		return errKeyPendingDeletion
	case store.PendingImport:
		return errKeyPendingImport
	default:
		return errKeyUnavailable
	}
	if key.KeyUsage != signVerify {
		return errUnsupportedOperation.because("The key's usage is %s.", key.KeyUsage)
	}
	return nil
}

type getPublicKeyRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
}

type getPublicKeyResponse struct {
	result
	KeyId        string
	KeyVersionId string
	PublicKey    string
}

func getPublicKey(_ context.Context, c *call, req *getPublicKeyRequest) (*getPublicKeyResponse, error) {
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	version, err := c.version(key, req.KeyVersionId)
	if err != nil {
		return nil, err
	}
	if err := usable(key); err != nil {
		return nil, err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	return &getPublicKeyResponse{KeyId: version.KeyId, KeyVersionId: version.KeyVersionId, PublicKey: hsm.PublicKeyPEM(version.Key.Public)}, nil
}
