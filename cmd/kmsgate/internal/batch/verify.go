package batch

import (
	"bytes"
	"context"
	"encoding/hex"
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

// A Proof is what Verify has verified.
type Proof struct {
	Manifest    Manifest
	Attestation kms.Attestation
}

// A Verifier verifies batches without a gateway.
type Verifier struct {
	Key   audit.PublicKey // the instance's audit key
	Files bool            // also hash the files that the list names; needs a list
}

// Verify verifies the output of a batch: the audit key signed the attestation of the manifest, the
// manifest names this output, every line has one result, every signature is valid by a key version
// that the instance attests, and, unless list is empty, each result answers its line of the list,
// which the manifest names.
func (v Verifier) Verify(ctx context.Context, list, out string) (p Proof, err error) {
	text, a, err := attestation.Read(v.Key, attestation.Batch, ManifestPath(out))
	if err != nil {
		return p, err
	}
	p.Attestation = a
	if err := decode(text, &p.Manifest); err != nil || p.Manifest.Format != format {
		return p, errors.Join(fmt.Errorf("%s is not of format %q", ManifestPath(out), format), err)
	}
	keys, err := attestedKeys(p)
	if err != nil {
		return p, err
	}
	var requests *lineReader
	if list != "" {
		f, err := os.Open(list)
		if err != nil {
			return p, err
		}
		defer f.Close()
		requests = newLineReader(f)
	}
	results, err := os.Open(out)
	if err != nil {
		return p, err
	}
	defer results.Close()
	return p, v.verifyResults(ctx, p.Manifest, keys, requests, results)
}

// attestedKeys returns the keys of the manifest by their KeyVersionIds. The attestation must have
// each with the same public key.
func attestedKeys(p Proof) (map[string]hsm.Key, error) {
	keys := make(map[string]hsm.Key)
	for _, k := range p.Manifest.Keys {
		if !slices.ContainsFunc(p.Attestation.Keys, func(a kms.AttestedKey) bool {
			return a.KeyId == k.KeyId && a.KeyVersionId == k.KeyVersionId && string(a.KeySpec) == k.KeySpec && bytes.Equal(a.PublicKey, k.PublicKey)
		}) {
			return nil, fmt.Errorf("the instance does not attest key version %s: it had been deleted, or the public key is not its own", k.KeyVersionId)
		}
		keys[k.KeyVersionId] = hsm.Key{Spec: hsm.KeySpec(k.KeySpec), Public: k.PublicKey}
	}
	return keys, nil
}

// verifyResults verifies the results of an output, one by one, against the list if there is one.
func (v Verifier) verifyResults(ctx context.Context, m Manifest, keys map[string]hsm.Key, list *lineReader, out *os.File) error {
	counts := make(map[string]int)
	signed := 0
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
		result, err := v.verifyResult(ctx, l, keys, list)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", out.Name(), l.number, err)
		}
		if result.Error == "" {
			counts[result.KeyVersionId]++
			signed++
		}
	}
	if results.sum() != m.Results {
		return fmt.Errorf("%s is not the output that the manifest names: it was changed", out.Name())
	}
	for _, k := range m.Keys {
		if counts[k.KeyVersionId] != k.Signatures {
			return fmt.Errorf("key version %s made %d signatures, not %d as the manifest says", k.KeyVersionId, counts[k.KeyVersionId], k.Signatures)
		}
	}
	if results.number != m.Lines || signed != m.Signed || m.Signed+m.Refused != m.Lines {
		return errors.New("the manifest's counts are not those of the output")
	}
	if list == nil {
		return nil
	}
	if _, err := list.next(); !errors.Is(err, io.EOF) || list.sum() != m.Requests {
		return errors.New("the list is not the one that the manifest names: it was changed, or is another one")
	}
	return nil
}

// verifyResult verifies one line of an output.
func (v Verifier) verifyResult(ctx context.Context, l line, keys map[string]hsm.Key, list *lineReader) (result Result, err error) {
	if err := decode(l.text, &result); err != nil {
		return result, fmt.Errorf("it is not a result: %w", err)
	}
	switch {
	case result.Line != l.number:
		return result, errors.New("it is not the result of its line")
	case result.Error == "" && result.Signature == nil, result.Error != "" && result.Signature != nil:
		return result, errors.New("it has both a signature and an error, or neither")
	}
	key, known := keys[result.KeyVersionId]
	if result.Error == "" {
		if !known {
			return result, fmt.Errorf("key version %q is not in the manifest", result.KeyVersionId)
		}
		digest, err := hex.DecodeString(result.Digest)
		if err != nil {
			return result, fmt.Errorf("the digest is not hexadecimal: %w", err)
		}
		valid, err := hsm.Verify(key, hsm.Algorithm(result.Algorithm), digest, result.Signature)
		if err != nil || !valid {
			return result, errors.Join(errors.New("the signature is not valid"), err)
		}
	}
	if list == nil {
		return result, nil
	}
	request, err := list.next()
	if err != nil || request.hash != result.Request {
		return result, errors.Join(errors.New("it does not answer this line of the list"), err)
	}
	if result.Error != "" {
		return result, nil
	}
	return result, v.compare(ctx, request, result, key)
}

// compare checks that a signature is the one that a request asked for. A request that names its key
// by an alias does not say which it is.
func (v Verifier) compare(ctx context.Context, l line, result Result, key hsm.Key) error {
	var request Request
	if l.text == nil || decode(l.text, &request) != nil {
		return errors.New("it signs a line of the list that is no request")
	}
	_, isARN := strings.CutPrefix(request.Key, "acs:")
	switch {
	case request.Id != result.Id:
		return fmt.Errorf("its Id is %q, and the request's %q", result.Id, request.Id)
	case request.Version != "" && request.Version != result.KeyVersionId:
		return fmt.Errorf("version %s signed it, and the request names %s", result.KeyVersionId, request.Version)
	case request.Algorithm != "" && request.Algorithm != result.Algorithm:
		return fmt.Errorf("its algorithm is %s, and the request's %s", result.Algorithm, request.Algorithm)
	case !strings.HasPrefix(request.Key, "alias/") && !isARN && request.Key != result.KeyId:
		return fmt.Errorf("key %s signed it, and the request names %s", result.KeyId, request.Key)
	case request.Digest != "" && !strings.EqualFold(request.Digest, result.Digest):
		return errors.New("it signs another digest than the request's")
	case request.File == "" || !v.Files:
		return nil
	}
	digest, err := hashFile(ctx, key, hsm.Algorithm(result.Algorithm), request)
	if err != nil {
		return err
	}
	if hex.EncodeToString(digest) != result.Digest {
		return fmt.Errorf("%s was changed after it was signed", request.File)
	}
	return nil
}
