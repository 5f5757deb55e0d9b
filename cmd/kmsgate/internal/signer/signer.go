// Package signer signs and verifies files with the keys of a gateway. It hashes a file here, in
// pieces, and sends only the digest.
package signer

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// A Client signs through one caller of a gateway.
type Client struct {
	Caller target.Caller
	// OnBehalfOf is the user whose policies apply to signatures, and AsAdministrator says that
	// none do. Both are for the local doors only; see gateway.Server.Do.
	OnBehalfOf      string
	AsAdministrator bool
	// Reference is what the audit log says that a signature belongs to; see kms.AdminRequest.
	Reference string
}

// An UnfitError says why a key cannot be used as it was asked.
type UnfitError struct{ Reason string }

func (e *UnfitError) Error() string { return e.Reason }

// A Key is one version of a key, with the algorithm to use.
type Key struct {
	Name         string // as it was given: a KeyId, an alias or an ARN
	KeyId        string
	KeyVersionId string
	Algorithm    hsm.Algorithm

	key hsm.Key // Spec and Public
}

// IsForNobody reports whether an error says that a local signature needs a user or an administrator.
func IsForNobody(err error) bool {
	return errors.Is(err, kms.ErrNoPermission) && strings.Contains(err.Error(), "OnBehalfOf")
}

// Find returns a version of a key. name is a KeyId, an alias or an ARN. An empty version is the
// newest one, and an empty algorithm the first of the KeySpec. Find needs the permission
// GetPublicKey, and ListKeyVersions if version is empty.
func (c Client) Find(ctx context.Context, name, version, algorithm string) (Key, error) {
	if version == "" {
		versions, err := target.KeyVersions.All(ctx, c.Caller, map[string]string{"KeyId": name})
		if errors.Is(err, kms.ErrNoPermission) {
			return Key{}, fmt.Errorf("finding the newest version of key %q: %w (or name a version)", name, err)
		}
		if err != nil {
			return Key{}, err
		}
		if len(versions) == 0 {
			return Key{}, &UnfitError{fmt.Sprintf("key %q has no version", name)}
		}
		newest := slices.MaxFunc(versions, func(a, b kms.KeyVersionItem) int { return strings.Compare(a.CreationDate, b.CreationDate) })
		if last := versions[len(versions)-1]; last.CreationDate == newest.CreationDate {
			newest = last // the gateway lists the oldest first
		}
		version = newest.KeyVersionId
	}
	var public kms.GetPublicKeyResponse
	if err := c.Caller.Call(ctx, "GetPublicKey", map[string]string{"KeyId": name, "KeyVersionId": version}, &public); err != nil {
		return Key{}, err
	}
	block, _ := pem.Decode([]byte(public.PublicKey))
	if block == nil {
		return Key{}, fmt.Errorf("the public key of version %s is not in PEM", version)
	}
	k := Key{Name: name, KeyId: public.KeyId, KeyVersionId: public.KeyVersionId, Algorithm: hsm.Algorithm(algorithm)}
	return k, k.setPublic(block.Bytes)
}

// NewKey returns a key version that is known already, for an algorithm. public is its
// SubjectPublicKeyInfo, in DER.
func NewKey(keyId, version, algorithm string, public []byte) (Key, error) {
	k := Key{Name: keyId, KeyId: keyId, KeyVersionId: version, Algorithm: hsm.Algorithm(algorithm)}
	return k, k.setPublic(public)
}

// setPublic sets the public key, with the KeySpec that it fits, and the default algorithm.
func (k *Key) setPublic(spki []byte) error {
	for _, spec := range hsm.KeySpecs() {
		key := hsm.Key{Spec: spec, Public: spki}
		algorithms := hsm.Algorithms(spec)
		if _, err := hsm.NewDigest(key, algorithms[0], hsm.DefaultSM2ID); err != nil {
			continue
		}
		k.key = key
		if k.Algorithm == "" {
			k.Algorithm = algorithms[0]
		}
		if err := hsm.Check(spec, k.Algorithm, make([]byte, hsm.DigestSize)); err != nil {
			return &UnfitError{fmt.Sprintf("algorithm %s does not fit a key of KeySpec %s: use one of %v", k.Algorithm, spec, algorithms)}
		}
		return nil
	}
	return fmt.Errorf("the public key of version %s fits no KeySpec", k.KeyVersionId)
}

// Spec returns the KeySpec.
func (k Key) Spec() hsm.KeySpec { return k.key.Spec }

// Public returns the public key, a SubjectPublicKeyInfo in DER.
func (k Key) Public() []byte { return k.key.Public }

// Digest returns the digest of what r reads, for the key's algorithm. sm2ID is the signer's id for
// SM2DSA; empty is hsm.DefaultSM2ID. It uses constant memory.
func (k Key) Digest(r io.Reader, sm2ID string) ([]byte, error) {
	if sm2ID == "" {
		sm2ID = hsm.DefaultSM2ID
	}
	h, err := hsm.NewDigest(k.key, k.Algorithm, sm2ID)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(h, r); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// Sign returns the signature of a digest as the API returns it: for ECDSA and SM2 an ASN.1
// SEQUENCE of r and s. It returns only a signature that verifies with the key's public key.
func (c Client) Sign(ctx context.Context, k Key, digest []byte) ([]byte, error) {
	var answer kms.AsymmetricSignResponse
	err := c.Caller.Do(ctx, kms.AdminRequest{Action: "AsymmetricSign", Parameters: k.parameters(digest),
		OnBehalfOf: c.OnBehalfOf, AsAdministrator: c.AsAdministrator, Reference: c.Reference}, &answer)
	if err != nil {
		return nil, err
	}
	valid, err := hsm.Verify(k.key, k.Algorithm, digest, answer.Value)
	if err != nil {
		return nil, err
	}
	if !valid {
		return nil, fmt.Errorf("the signature by key version %s does not verify with its public key: do not use it", k.KeyVersionId)
	}
	return answer.Value, nil
}

// Verify asks the gateway whether a signature, as Sign returns it, is valid.
func (c Client) Verify(ctx context.Context, k Key, digest, signature []byte) (bool, error) {
	parameters := k.parameters(digest)
	parameters["Value"] = base64.StdEncoding.EncodeToString(signature)
	var answer kms.AsymmetricVerifyResponse
	err := c.Caller.Do(ctx, kms.AdminRequest{Action: "AsymmetricVerify", Parameters: parameters, OnBehalfOf: c.OnBehalfOf}, &answer)
	return answer.Value, err
}

func (k Key) parameters(digest []byte) map[string]string {
	return map[string]string{"KeyId": k.Name, "KeyVersionId": k.KeyVersionId, "Algorithm": string(k.Algorithm),
		"Digest": base64.StdEncoding.EncodeToString(digest)}
}
