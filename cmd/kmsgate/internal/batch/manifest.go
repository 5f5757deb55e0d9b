package batch

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// format is the first member of every manifest.
const format = "kmsgate batch 1"

// A Manifest says what a batch signed. The audit key signs its text: see audit.SignStatement.
type Manifest struct {
	Format   string
	Time     time.Time // of the manifest
	Lines    int
	Signed   int
	Refused  int
	Requests string // the SHA-256 of the list, in hexadecimal
	Results  string // the SHA-256 of the output, in hexadecimal
	Keys     []ManifestKey
	Resumed  []Resumption `json:",omitempty"`
}

// A ManifestKey is a key version that signed.
type ManifestKey struct {
	KeyId        string
	KeyVersionId string
	PublicKey    []byte // SubjectPublicKeyInfo, DER
	Signatures   int
}

// maxManifestKeys keeps a manifest within what SignStatement signs.
const maxManifestKeys = 100

func requestHash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

func fileHash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// attest writes the manifest and its signature.
func (r *Runner) attest(ctx context.Context) (m Manifest, err error) {
	m = Manifest{Format: format, Time: time.Now().UTC()}
	if m.Requests, err = fileHash(r.In); err != nil {
		return m, err
	}
	if m.Results, err = fileHash(r.Out); err != nil {
		return m, err
	}
	if m.Resumed, err = r.resumptions(); err != nil {
		return m, err
	}
	if err := r.count(ctx, &m); err != nil {
		return m, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, err
	}
	var signature kms.SignStatementResponse
	if err := r.Client.Caller.Call(ctx, "SignStatement", map[string]string{"Statement": string(text)}, &signature); err != nil {
		return m, fmt.Errorf("signing the manifest: %w", err)
	}
	for path, content := range map[string][]byte{
		ManifestPath(r.Out):  text,
		SignaturePath(r.Out): fmt.Appendln(nil, base64.StdEncoding.EncodeToString(signature.Signature)),
	} {
		if err := durable.Replace(path, 0o644, func(w io.Writer) error { _, err := w.Write(content); return err }); err != nil {
			return m, fmt.Errorf("writing %q: %w", path, err)
		}
	}
	return m, nil
}

func (r *Runner) resumptions() (all []Resumption, err error) {
	text, err := os.ReadFile(r.resumedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for line := range bytes.Lines(text) {
		var one Resumption
		if err := json.Unmarshal(line, &one); err != nil {
			return nil, fmt.Errorf("reading %q: %w", r.resumedPath(), err)
		}
		all = append(all, one)
	}
	return all, err
}

// count counts the results, and collects the keys that signed.
func (r *Runner) count(ctx context.Context, m *Manifest) error {
	keys := make(map[string]*ManifestKey)
	err := eachResult(r.Out, func(result Result) error {
		m.Lines++
		if result.Error != "" {
			m.Refused++
			return nil
		}
		m.Signed++
		k := keys[result.KeyVersionId]
		if k == nil {
			found, err := r.Client.Find(ctx, result.KeyId, result.KeyVersionId, result.Algorithm)
			if err != nil {
				return err
			}
			if len(keys) >= maxManifestKeys {
				return fmt.Errorf("more than %d key versions signed: split the list", maxManifestKeys)
			}
			k = &ManifestKey{KeyId: found.KeyId, KeyVersionId: found.KeyVersionId, PublicKey: found.Public()}
			keys[result.KeyVersionId] = k
		}
		k.Signatures++
		return nil
	})
	for _, k := range keys {
		m.Keys = append(m.Keys, *k)
	}
	slices.SortFunc(m.Keys, func(a, b ManifestKey) int { return strings.Compare(a.KeyVersionId, b.KeyVersionId) })
	return err
}

// eachResult calls f with every result of an output, in order.
func eachResult(path string, f func(Result) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := newScanner(file)
	for n := 1; lines.Scan(); n++ {
		var result Result
		if err := decode(lines.Bytes(), &result); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
		if result.Line != n {
			return fmt.Errorf("%s:%d is the result of line %d", path, n, result.Line)
		}
		if err := f(result); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	return lines.Err()
}

// Verify verifies an output with its manifest: the audit key signed the manifest, the output is the
// one that it names, and so is the list unless list is empty, every line is answered once, and
// every signature is valid by a key of the manifest. It needs no gateway.
func Verify(key audit.PublicKey, list, out string) (m Manifest, err error) {
	text, err := os.ReadFile(ManifestPath(out))
	if err != nil {
		return m, err
	}
	encoded, err := os.ReadFile(SignaturePath(out))
	if err != nil {
		return m, err
	}
	signature, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(encoded)))
	if err != nil || !audit.Signed(key, audit.StatementDigest(text), signature) {
		return m, errors.New("the manifest is not signed by this audit key: it was changed, or is another instance's")
	}
	if err := decode(text, &m); err != nil || m.Format != format {
		return m, fmt.Errorf("the manifest is not of format %q: %w", format, err)
	}
	if hash, err := fileHash(out); err != nil || hash != m.Results {
		return m, errors.Join(fmt.Errorf("%s is not the output that the manifest names", out), err)
	}
	if list != "" {
		if err := verifyList(list, out, m); err != nil {
			return m, err
		}
	}
	return m, verifyResults(out, m)
}

// verifyList checks that each result answers the line of the list at its place.
func verifyList(path, out string, m Manifest) error {
	if hash, err := fileHash(path); err != nil || hash != m.Requests {
		return errors.Join(fmt.Errorf("%s is not the list that the manifest names", path), err)
	}
	list, err := os.Open(path)
	if err != nil {
		return err
	}
	defer list.Close()
	lines := newScanner(list)
	err = eachResult(out, func(result Result) error {
		if !lines.Scan() || requestHash(lines.Bytes()) != result.Request {
			return errors.New("the result is not of this line of the list")
		}
		return nil
	})
	return errors.Join(err, unread(lines))
}

func unread(lines *bufio.Scanner) error {
	if lines.Scan() {
		return errors.New("the list has lines without a result")
	}
	return lines.Err()
}

// verifyResults checks every signature and the manifest's counts.
func verifyResults(out string, m Manifest) error {
	keys := make(map[string]ManifestKey)
	for _, k := range m.Keys {
		keys[k.KeyVersionId] = k
	}
	count := Manifest{}
	err := eachResult(out, func(result Result) error {
		count.Lines++
		if result.Error != "" {
			count.Refused++
			return nil
		}
		count.Signed++
		k, ok := keys[result.KeyVersionId]
		if !ok || k.KeyId != result.KeyId {
			return fmt.Errorf("key version %q is not in the manifest", result.KeyVersionId)
		}
		return signer.CheckSignature(k.PublicKey, result.Algorithm, result.Digest, result.Signature)
	})
	if err == nil && (count.Lines != m.Lines || count.Signed != m.Signed || count.Refused != m.Refused) {
		err = errors.New("the manifest's counts are not those of the output")
	}
	return err
}
