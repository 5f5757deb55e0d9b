package batch

import (
	"bufio"
	"context"
	"crypto/sha256"
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

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/attestation"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// A Manifest says what a batch signed. It is OUT.manifest, beside the output; see package
// attestation for the files that prove it.
type Manifest struct {
	Format   string // format
	Batch    string // the id in the audit log's References
	Instance string // the ARN of the instance that signed
	Began    time.Time
	Ended    time.Time
	Lines    int
	Signed   int
	Refused  int
	Requests string // the SHA-256 of the list, in hexadecimal
	Results  string // the SHA-256 of the output, in hexadecimal
	Keys     []SigningKey
	Runs     []Run
	Again    []Span // lines that can have been signed more than once
}

// A SigningKey is a key version that requests of a batch got.
type SigningKey struct {
	Key
	Names      []string // the Keys by which requests named it
	Signatures int
}

// ManifestPath returns the path of the manifest of an output.
func ManifestPath(out string) string { return out + ".manifest" }

func encodeManifest(m any) ([]byte, error) {
	text, err := json.MarshalIndent(m, "", "  ")
	return append(text, '\n'), err
}

// decodeManifest decodes the text of a manifest.
func decodeManifest(text []byte) (m Manifest, err error) {
	if err := attestation.DecodeExact(text, &m, encodeManifest); err != nil {
		return m, fmt.Errorf("reading the manifest: %w", err)
	}
	if m.Format != format {
		return m, fmt.Errorf("the manifest is not of format %q", format)
	}
	return m, nil
}

// completed returns the manifest of an output that is complete. It checks that nothing of another
// batch, or of none, would be replaced. If the attestation is missing, the gateway attests again.
func (r *Runner) completed(ctx context.Context, start begin) (m Manifest, done bool, err error) {
	_, journalErr := os.Lstat(journalPath(r.Out))
	if journalErr == nil {
		return m, false, nil // the batch continues
	}
	results, err := fileHash(r.Out)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, r.checkNew()
	}
	if err != nil {
		return m, false, err
	}
	text, err := os.ReadFile(ManifestPath(r.Out))
	if err == nil {
		m, err = decodeManifest(text)
	}
	move := fmt.Sprintf("move it and %s* away, or choose another output", ManifestPath(r.Out))
	if err != nil {
		return m, false, fmt.Errorf("%s exists, and is not the output of a batch: %s (%w)", r.Out, move, err)
	}
	if m.Requests != start.Requests || m.Results != results {
		return m, false, fmt.Errorf("%s exists, and is the output for another list, or was changed: %s", r.Out, move)
	}
	if attestation.Covers(ManifestPath(r.Out), text) {
		return m, true, nil
	}
	instance, err := target.Instance(ctx, r.Client.Caller)
	if err == nil && instance != m.Instance {
		err = fmt.Errorf("%s lacks its attestation, by instance %s, and this is %s: name the gateway of the first", ManifestPath(r.Out), m.Instance, instance)
	}
	if err != nil {
		return m, false, err
	}
	return m, true, r.attest(ctx, m, text)
}

// checkNew checks that none of the files that a new batch writes exists.
func (r *Runner) checkNew() error {
	for _, path := range r.ownFiles() {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s exists, and is not of this batch: move it away, or choose another output", path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// finish writes the output and its manifest, and removes the journal.
func (r *Runner) finish(ctx context.Context, j *journal) (m Manifest, err error) {
	m = Manifest{Format: format, Batch: j.begin.Batch, Instance: j.begin.Instance, Began: j.begin.Time, Ended: time.Now().UTC(),
		Lines: j.done, Signed: j.signed, Refused: j.done - j.signed, Requests: j.begin.Requests,
		Runs: j.runs, Again: append([]Span{}, j.again...), Keys: j.signingKeys()}
	if m.Results, err = writeOutput(j, r.Out); err != nil {
		return m, fmt.Errorf("writing %q: %w", r.Out, err)
	}
	text, err := encodeManifest(m)
	if err != nil {
		return m, err
	}
	if err := r.attest(ctx, m, text); err != nil {
		return m, err
	}
	if sum, err := fileHash(r.In); err != nil {
		return m, fmt.Errorf("every line is answered, but the list cannot be read again: restore it from its copy %s (%w)", listPath(r.Out), err)
	} else if sum != j.begin.Requests {
		return m, fmt.Errorf("every line is answered, but %s was changed after the batch had begun: restore it from its copy %s, and run the same command again", r.In, listPath(r.Out))
	}
	if err := os.Remove(listPath(r.Out)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	return m, j.remove()
}

// signingKeys returns the key versions that signed.
func (j *journal) signingKeys() []SigningKey {
	all := []SigningKey{}
	for _, u := range j.uses {
		i := slices.IndexFunc(all, func(k SigningKey) bool { return k.KeyVersionId == u.KeyVersionId })
		if i < 0 {
			if j.counts[u.KeyVersionId] == 0 {
				continue
			}
			i, all = len(all), append(all, SigningKey{Key: u.Key, Signatures: j.counts[u.KeyVersionId]})
		}
		if !slices.Contains(all[i].Names, u.Name.Key) {
			all[i].Names = append(all[i].Names, u.Name.Key)
		}
	}
	slices.SortFunc(all, func(a, b SigningKey) int { return strings.Compare(a.KeyVersionId, b.KeyVersionId) })
	return all
}

// attest writes a manifest, and has the gateway attest it with all of its keys.
func (r *Runner) attest(ctx context.Context, m Manifest, text []byte) error {
	names := []kms.KeyVersionName{}
	for _, k := range m.Keys {
		names = append(names, kms.KeyVersionName{KeyId: k.KeyId, KeyVersionId: k.KeyVersionId})
	}
	a, err := attestation.Write(ctx, r.Client.Caller, attestation.Batch, ManifestPath(r.Out), text, names, false)
	if err != nil {
		return fmt.Errorf("%w (every line is answered: run the same command again)", err)
	}
	if _, err := attestedKeys(m, a); err != nil {
		return fmt.Errorf("every line is answered, but the batch cannot be proven: %w", err)
	}
	return nil
}

// writeOutput writes the results of a journal to a file, and returns its SHA-256 in hexadecimal. If
// the file exists, it must have the results already.
func writeOutput(j *journal, out string) (string, error) {
	sum := sha256.New()
	write := func(w io.Writer) error {
		buffered := bufio.NewWriter(io.MultiWriter(w, sum))
		err := j.results(func(result Result) error {
			text, err := json.Marshal(result)
			if err != nil {
				return err
			}
			_, err = buffered.Write(append(text, '\n'))
			return err
		})
		return errors.Join(err, buffered.Flush())
	}
	existing, err := fileHash(out)
	if errors.Is(err, fs.ErrNotExist) {
		err := durable.Replace(out, 0o644, write)
		return hex.EncodeToString(sum.Sum(nil)), err
	}
	if err != nil {
		return "", err
	}
	if err := write(io.Discard); err != nil {
		return "", err
	}
	if hash := hex.EncodeToString(sum.Sum(nil)); hash != existing {
		return "", errors.New("it exists with other content: move it away, and run the same command again")
	}
	return existing, nil
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
