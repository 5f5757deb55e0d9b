// Package signertest has a gateway for the tests of what signs through one.
package signertest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

// The names of a Gateway's key and instance. Every KeyId but "none" finds the key.
const (
	KeyId        = "k"
	KeyVersionId = "v"
	Instance     = "acs:kms:cn-hangzhou:1000000000000001:keystore/kst-test"
)

// A Gateway is a target.Caller that answers what is needed to sign, with one key of a fake backend.
type Gateway struct {
	Backend hsmtest.Fake
	Key     hsm.Key
	Audit   *ecdsa.PrivateKey

	// Fail, if not nil, returns the error of a request. Change, if not nil, changes a signature.
	// Neither is called twice at a time.
	Fail   func(r kms.AdminRequest) error
	Change func(signature []byte)
	// Attested, if not nil, changes what the gateway attests.
	Attested func(a *kms.Attestation)

	mu    sync.Mutex
	asked []kms.AdminRequest // guarded by mu
}

// NewGateway returns a Gateway with a key of a KeySpec.
func NewGateway(t testing.TB, spec hsm.KeySpec) *Gateway {
	t.Helper()
	g := new(Gateway)
	var err error
	if g.Key, err = g.Backend.Generate(t.Context(), spec, bytes.Repeat([]byte{7}, 16)); err != nil {
		t.Fatal(err)
	}
	if g.Audit, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	return g
}

// Asked returns all requests so far.
func (g *Gateway) Asked() []kms.AdminRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked
}

// Call implements target.Caller.
func (g *Gateway) Call(ctx context.Context, action string, parameters map[string]string, answer any) error {
	return g.Do(ctx, kms.AdminRequest{Action: action, Parameters: parameters}, answer)
}

// Do implements target.Caller.
func (g *Gateway) Do(ctx context.Context, r kms.AdminRequest, answer any) error {
	if err := g.begin(r); err != nil {
		return err
	}
	response := map[string]any{"KeyId": KeyId, "KeyVersionId": KeyVersionId, "PublicKey": hsm.PublicKeyPEM(g.Key.Public), "TotalCount": 1,
		"KeyVersions":  map[string]any{"KeyVersion": []any{map[string]string{"KeyVersionId": KeyVersionId}}},
		"KmsInstances": map[string]any{"KmsInstance": []any{map[string]string{"KmsInstanceArn": Instance}}}}
	var err error
	switch r.Action {
	case "AsymmetricSign":
		response["Value"], err = g.sign(ctx, r)
	case "CreateAttestation":
		response, err = g.attest(r)
	}
	if err != nil {
		return err
	}
	text, err := json.Marshal(response)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

func (g *Gateway) begin(r kms.AdminRequest) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, r)
	if g.Fail != nil {
		if err := g.Fail(r); err != nil {
			return err
		}
	}
	if strings.Contains(r.Parameters["KeyId"], "none") {
		return kms.ErrKeyNotFound
	}
	return nil
}

func (g *Gateway) sign(ctx context.Context, r kms.AdminRequest) ([]byte, error) {
	digest, err := base64.StdEncoding.DecodeString(r.Parameters["Digest"])
	if err != nil {
		return nil, err
	}
	signature, err := g.Backend.Sign(ctx, g.Key, hsm.Algorithm(r.Parameters["Algorithm"]), digest)
	if err == nil && g.Change != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.Change(signature)
	}
	return signature, err
}

func (g *Gateway) attest(r kms.AdminRequest) (map[string]any, error) {
	a := kms.Attestation{Format: audit.AttestationFormat, Kind: r.Parameters["Kind"], Document: r.Parameters["Document"], Instance: Instance,
		Keys: []kms.AttestedKey{{KeyId: KeyId, KeyVersionId: KeyVersionId, KeySpec: g.Key.Spec, PublicKey: g.Key.Public}}}
	if g.Attested != nil {
		g.Attested(&a)
	}
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(text)
	signature, err := ecdsa.SignASN1(rand.Reader, g.Audit, digest[:])
	return map[string]any{"Attestation": text, "Signature": signature}, err
}

// Stream implements target.Caller.
func (g *Gateway) Stream(context.Context, string, map[string]string, io.Writer) error {
	return kms.ErrNoOctets
}

// Close implements target.Caller.
func (g *Gateway) Close() error { return nil }
