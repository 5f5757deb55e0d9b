package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"

	"github.com/kmsgate/kmsgate/hsm"
)

// CryptoSigner returns a crypto.Signer and crypto.MessageSigner for a key, for libraries that make
// certificate requests and CMS. ctx limits its signatures. crypto/x509 has no key for
// secp256k1, so EC_P256K is an error.
//
// For RSA, the options of a call choose the algorithm, whatever k.Algorithm is; for SM2, the
// message is hashed with hsm.DefaultSM2ID.
func (c Client) CryptoSigner(ctx context.Context, k Key) (crypto.Signer, error) {
	public, err := smx509.ParsePKIXPublicKey(k.Public())
	if err != nil {
		return nil, fmt.Errorf("a key of KeySpec %s cannot sign certificates: %w", k.Spec(), err)
	}
	return &cryptoSigner{ctx, c, k, public}, nil
}

type cryptoSigner struct {
	ctx    context.Context // crypto.Signer has no parameter for it
	client Client
	key    Key
	public crypto.PublicKey
}

var errOptions = errors.New("the options choose a signature that KMS has no algorithm for")

func (s *cryptoSigner) Public() crypto.PublicKey { return s.public }

// Sign signs a digest. For SM2 under a signer option it is a message, as gmsm has it.
func (s *cryptoSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k := s.key
	if s.key.Spec() == hsm.EC_SM2 {
		if opts != sm2.DefaultSM2SignerOpts {
			return nil, errOptions
		}
		return s.SignMessage(nil, digest, opts)
	}
	switch o := opts.(type) {
	case nil:
		return nil, errOptions
	case *rsa.PSSOptions:
		if o.SaltLength != rsa.PSSSaltLengthEqualsHash && o.SaltLength != hsm.DigestSize || o.Hash != crypto.SHA256 {
			return nil, errOptions
		}
		k.Algorithm = hsm.RSA_PSS_SHA_256
	default:
		if opts.HashFunc() != crypto.SHA256 {
			return nil, errOptions
		}
		if _, isRSA := s.public.(*rsa.PublicKey); isRSA {
			k.Algorithm = hsm.RSA_PKCS1_SHA_256
		}
	}
	return s.client.Sign(s.ctx, k, digest)
}

// SignMessage hashes a message and signs it.
func (s *cryptoSigner) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	digest, err := s.key.Digest(bytes.NewReader(message), "")
	if err != nil {
		return nil, err
	}
	if s.key.Spec() == hsm.EC_SM2 {
		if opts != sm2.DefaultSM2SignerOpts {
			return nil, errOptions
		}
		return s.client.Sign(s.ctx, s.key, digest)
	}
	return s.Sign(nil, digest, opts)
}
