package batch

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/attestation"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// A Proof is what a Verifier has verified.
type Proof struct {
	Manifest    Manifest
	Attestation kms.Attestation
	// FilesNotHashed counts the signatures for requests with a File that was not hashed again.
	// Only the digest says what they sign.
	FilesNotHashed int
}

// A Verifier verifies batches without a gateway.
type Verifier struct {
	Key   audit.PublicKey // the instance's audit key
	Files bool            // also hash the files that the list names; needs a list
}

// Verify verifies the output of a batch: the audit key signed the attestation of the manifest, the
// manifest names this output, every line has one result, every signature is valid by a key version
// that the instance attests, and, unless list is empty, the manifest names the list, and each
// result answers its line of it.
//
// The manifest's times, Runs, Again and Names are what the person who ran the batch says.
func (v Verifier) Verify(ctx context.Context, list, out string) (p Proof, err error) {
	text, a, err := attestation.Read(v.Key, attestation.Batch, ManifestPath(out))
	if err != nil {
		return p, err
	}
	p.Attestation = a
	if p.Manifest, err = decodeManifest(text); err != nil {
		return p, err
	}
	if p.Manifest.Instance != a.Instance {
		return p, fmt.Errorf("the manifest is of instance %s, and %s attests it", p.Manifest.Instance, a.Instance)
	}
	c := comparison{verifier: v, manifest: p.Manifest}
	if c.keys, err = attestedKeys(p.Manifest, a); err != nil {
		return p, err
	}
	if list != "" {
		f, err := os.Open(list)
		if err != nil {
			return p, err
		}
		defer f.Close()
		c.list = newLineReader(f)
	}
	results, err := os.Open(out)
	if err != nil {
		return p, err
	}
	defer results.Close()
	err = c.compareAll(ctx, results)
	p.FilesNotHashed = c.filesNotHashed
	return p, err
}

// attestedKeys returns the keys of a manifest by their KeyVersionIds. The attestation must have
// each with the same public key.
func attestedKeys(m Manifest, a kms.Attestation) (map[string]hsm.Key, error) {
	keys := make(map[string]hsm.Key)
	for _, k := range m.Keys {
		if !slices.ContainsFunc(a.Keys, func(a kms.AttestedKey) bool {
			return a.KeyId == k.KeyId && a.KeyVersionId == k.KeyVersionId && string(a.KeySpec) == k.KeySpec && bytes.Equal(a.PublicKey, k.PublicKey)
		}) {
			return nil, fmt.Errorf("the instance does not attest key version %s: it was deleted, or the public key is not its own", k.KeyVersionId)
		}
		keys[k.KeyVersionId] = hsm.Key{Spec: hsm.KeySpec(k.KeySpec), Public: k.PublicKey}
	}
	return keys, nil
}

// A comparison compares an output with its manifest and its list.
type comparison struct {
	verifier Verifier
	manifest Manifest
	keys     map[string]hsm.Key // by KeyVersionId
	list     *lineReader        // nil if there is none

	filesNotHashed int
}

// compareAll compares the results of an output, one by one, and then what the manifest says of all.
func (c *comparison) compareAll(ctx context.Context, out *os.File) error {
	counts, signed := make(map[string]int), 0
	results := newLineReader(out)
	for {
		l, err := results.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		result, err := c.compare(ctx, l)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", out.Name(), l.number, err)
		}
		if result.Error == "" {
			counts[result.KeyVersionId]++
			signed++
		}
	}
	m := c.manifest
	if results.sum() != m.Results {
		return fmt.Errorf("%s is not the output that the manifest names: it was changed", out.Name())
	}
	for _, k := range m.Keys {
		if counts[k.KeyVersionId] != k.Signatures {
			return fmt.Errorf("key version %s made %d signatures, not %d as the manifest says", k.KeyVersionId, counts[k.KeyVersionId], k.Signatures)
		}
	}
	if results.number != m.Lines || signed != m.Signed || m.Signed+m.Refused != m.Lines || len(m.Runs) == 0 {
		return errors.New("the manifest's counts are not those of the output")
	}
	if c.list == nil {
		return nil
	}
	if _, err := c.list.next(); !errors.Is(err, io.EOF) || c.list.sum() != m.Requests {
		return errors.New("the list is not the one that the manifest names: it was changed, or is another one")
	}
	return nil
}

// compare verifies one line of an output, and compares it with its line of the list.
func (c *comparison) compare(ctx context.Context, l line) (result Result, err error) {
	if l.text == nil {
		return result, fmt.Errorf("it has more than %d KiB, and is no result", MaxLine>>10)
	}
	if err := attestation.DecodeExact(l.text, &result, json.Marshal); err != nil {
		return result, fmt.Errorf("it is not a result: %w", err)
	}
	switch {
	case result.Line != l.number:
		return result, errors.New("it is not the result of its line")
	case result.Error == "" && result.Signature == nil, result.Error != "" && result.Signature != nil:
		return result, errors.New("it has both a signature and an error, or neither")
	case result.Error == "":
		if err := c.checkSignature(result); err != nil {
			return result, err
		}
	}
	if c.list == nil {
		return result, nil
	}
	request, err := c.list.next()
	if errors.Is(err, io.EOF) {
		return result, errors.New("the list has no such line")
	}
	if err != nil {
		return result, err
	}
	if request.hash != result.Request {
		return result, errors.New("it does not answer this line of the list")
	}
	return result, c.compareRequest(ctx, request, result)
}

func (c *comparison) checkSignature(result Result) error {
	key, ok := c.keys[result.KeyVersionId]
	if !ok {
		return fmt.Errorf("key version %q is not in the manifest", result.KeyVersionId)
	}
	if keyId := c.signingKey(result).KeyId; result.KeyId != keyId {
		return fmt.Errorf("version %s is of key %s, not of %s", result.KeyVersionId, keyId, result.KeyId)
	}
	digest, err := hex.DecodeString(result.Digest)
	if err != nil {
		return fmt.Errorf("the digest is not hexadecimal: %w", err)
	}
	valid, err := hsm.Verify(key, hsm.Algorithm(result.Algorithm), digest, result.Signature)
	if err != nil {
		return fmt.Errorf("the signature is not valid: %w", err)
	}
	if !valid {
		return errors.New("the signature is not valid")
	}
	return nil
}

// signingKey returns the manifest's key of a result, whose KeyVersionId is known to be there.
func (c *comparison) signingKey(result Result) SigningKey {
	return c.manifest.Keys[slices.IndexFunc(c.manifest.Keys, func(k SigningKey) bool { return k.KeyVersionId == result.KeyVersionId })]
}

// compareRequest checks that a result is one that its request asked for.
func (c *comparison) compareRequest(ctx context.Context, l line, result Result) error {
	request, requestErr := decodeRequest(l.text) // of no text, if the line is too long
	if requestErr == nil && request.Id != result.Id {
		return fmt.Errorf("its Id is %q, and the request's %q", result.Id, request.Id)
	}
	if result.Error != "" {
		return nil
	}
	if requestErr != nil {
		return fmt.Errorf("it signs a line of the list that is no request: %w", requestErr)
	}
	used, key := c.signingKey(result), c.keys[result.KeyVersionId]
	algorithm := request.Algorithm
	if algorithm == "" {
		algorithm = string(hsm.Algorithms(key.Spec)[0])
	}
	switch {
	case !slices.Contains(used.Names, request.Key) || !mayName(request.Key, used.KeyId):
		return fmt.Errorf("key %s signed it, and the request names %q", result.KeyId, request.Key)
	case request.Version != "" && request.Version != result.KeyVersionId:
		return fmt.Errorf("version %s signed it, and the request names %q", result.KeyVersionId, request.Version)
	case algorithm != result.Algorithm:
		return fmt.Errorf("its algorithm is %s, and the request's %s", result.Algorithm, algorithm)
	}
	if request.File != "" && !c.verifier.Files {
		c.filesNotHashed++
		return request.check(key.Spec)
	}
	digest, err := request.digest(ctx, key, hsm.Algorithm(algorithm))
	if err != nil {
		return err
	}
	switch {
	case hex.EncodeToString(digest) == result.Digest:
		return nil
	case request.File != "":
		return fmt.Errorf("%s is not what was signed: it was changed, or is of another directory", request.File)
	}
	return errors.New("it signs another digest than the request's")
}

// mayName reports whether a request that names its key by text can get a key: a KeyId, alone or in an
// ARN, is the key's; what an alias names only the manifest says.
func mayName(text, keyId string) bool {
	if i := strings.LastIndex(text, ":key/"); strings.HasPrefix(text, "acs:") && i >= 0 {
		text = text[i+len(":key/"):]
	}
	return text == keyId || strings.HasPrefix(text, "alias/") || strings.Contains(text, ":alias/")
}
