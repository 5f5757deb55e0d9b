// Package attestation has a gateway attest documents, such as the manifest of a batch, and verifies
// the attestations without a gateway.
//
// The attestation of a document at PATH is in two files beside it: PATH.attestation, the text of a
// [kms.Attestation], and PATH.attestation.sig, its signature by the instance's audit key over
// SHA-256, as openssl dgst takes it. The text has the document's hash.
package attestation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// A Kind is what a document is.
type Kind string

// The kinds of documents.
const (
	Batch    Kind = "batch"    // the manifest of a batch
	Ceremony Kind = "ceremony" // the transcript of a ceremony
)

// maxSize limits the files that Read reads, in bytes.
const maxSize = 16 << 20

// Write writes a document to path, and has the gateway attest it and key versions, at most
// kms.MaxList. With inspect the attestation has what the token reports. An error about the gateway
// leaves no file changed.
func Write(ctx context.Context, c target.Caller, kind Kind, path string, document []byte, keys []kms.KeyVersionName, inspect bool) (a kms.Attestation, err error) {
	parameters := map[string]string{"Kind": string(kind), "Document": hashOf(document)}
	if len(keys) > 0 {
		text, err := json.Marshal(keys)
		if err != nil {
			return a, err
		}
		parameters["KeyVersions"] = string(text)
	}
	if inspect {
		parameters["Inspect"] = "true"
	}
	var answer kms.CreateAttestationResponse
	if err := c.Call(ctx, "CreateAttestation", parameters, &answer); err != nil {
		return a, fmt.Errorf("attesting %q: %w", path, err)
	}
	if err := json.Unmarshal(answer.Attestation, &a); err != nil {
		return a, fmt.Errorf("reading the attestation: %w", err)
	}
	for _, file := range []struct {
		path    string
		content []byte
	}{{path, document}, {textPath(path), answer.Attestation}, {signaturePath(path), answer.Signature}} {
		if err := durable.Write(file.path, file.content, 0o644); err != nil {
			return a, fmt.Errorf("writing %q: %w", file.path, err)
		}
	}
	return a, nil
}

// Read returns a document and its attestation. It verifies that the audit key signed the
// attestation, and that this is of the document and of a kind.
func Read(key audit.PublicKey, kind Kind, path string) (document []byte, a kms.Attestation, err error) {
	document, err = readFile(path)
	if err != nil {
		return nil, a, err
	}
	text, err := readFile(textPath(path))
	if err != nil {
		return nil, a, err
	}
	signature, err := readFile(signaturePath(path))
	if err != nil {
		return nil, a, err
	}
	if digest := sha256.Sum256(text); !audit.Signed(key, digest[:], signature) {
		return nil, a, fmt.Errorf("%s is not signed by this audit key: it was changed, or is another instance's", textPath(path))
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, a, fmt.Errorf("reading %s: %w", textPath(path), err)
	}
	if a.Format != audit.AttestationFormat {
		return nil, a, fmt.Errorf("%s is not of format %q", textPath(path), audit.AttestationFormat)
	}
	if a.Document != hashOf(document) {
		return nil, a, fmt.Errorf("%s is not the document that was attested: it was changed", path)
	}
	if a.Kind != string(kind) {
		return nil, a, fmt.Errorf("%s is attested as a %s, not as a %s", path, a.Kind, kind)
	}
	return document, a, nil
}

// Covers reports whether the files beside a document exist and are of it. It does not verify the
// signature.
func Covers(path string, document []byte) bool {
	var a kms.Attestation
	text, err := readFile(textPath(path))
	if err != nil || json.Unmarshal(text, &a) != nil || a.Document != hashOf(document) {
		return false
	}
	_, err = readFile(signaturePath(path))
	return err == nil
}

// Files returns the paths of the files that Write writes beside a document.
func Files(path string) []string { return []string{textPath(path), signaturePath(path)} }

// DecodeExact decodes what encode has encoded, such as a document that this program wrote. Any other
// text is an error, even if it means the same: two programs could read different values in it.
func DecodeExact(text []byte, value any, encode func(value any) ([]byte, error)) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(value); err != nil {
		return err
	}
	again, err := encode(value)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, text) {
		return errors.New("it was changed: kmsgate writes it in another form")
	}
	return nil
}

func hashOf(document []byte) string {
	sum := sha256.Sum256(document)
	return hex.EncodeToString(sum[:])
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return nil, fmt.Errorf("%s is not a file of at most %d MiB", path, maxSize>>20)
	}
	return os.ReadFile(path)
}

func textPath(path string) string      { return path + ".attestation" }
func signaturePath(path string) string { return textPath(path) + ".sig" }
