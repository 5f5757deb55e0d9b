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
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// A Manifest says what a batch signed. It is OUT.manifest, beside the output; see package
// attestation for the files that prove it.
type Manifest struct {
	Format   string // format
	Batch    string // the id in the audit log's References
	Began    time.Time
	Ended    time.Time
	Lines    int
	Signed   int
	Refused  int
	Requests string // the SHA-256 of the list, in hexadecimal
	Results  string // the SHA-256 of the output, in hexadecimal
	Keys     []Key  // those that signed
	Runs     []Run
}

// ManifestPath returns the path of the manifest of an output.
func ManifestPath(out string) string { return out + ".manifest" }

// completed returns the manifest of an output that is complete. An output without a manifest or a
// journal is no batch's, and an error.
func (r *Runner) completed(start begin) (m Manifest, done bool, err error) {
	if _, err := os.Lstat(r.Out); errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	} else if err != nil {
		return m, false, err
	}
	if _, err := os.Lstat(journalPath(r.Out)); err == nil {
		return m, false, nil // finish compares the output
	}
	text, err := os.ReadFile(ManifestPath(r.Out))
	if err != nil || decode(text, &m) != nil || m.Format != format {
		return m, false, fmt.Errorf("%s exists, and is not the output of a batch: move it away, or choose another output", r.Out)
	}
	results, err := fileHash(r.Out)
	if err != nil {
		return m, false, err
	}
	if m.Requests != start.Requests || m.Results != results {
		return m, false, fmt.Errorf("%s exists, and is the output of another batch or was changed: move it away, or choose another output", r.Out)
	}
	return m, true, nil
}

// finish writes the output and its manifest, and removes the journal.
func (r *Runner) finish(ctx context.Context, j *journal) (m Manifest, err error) {
	m = Manifest{Format: format, Batch: j.begin.Batch, Began: j.begin.Time, Ended: time.Now().UTC(),
		Lines: j.results, Signed: j.signed, Refused: j.results - j.signed, Requests: j.begin.Requests, Runs: j.runs, Keys: []Key{}}
	names := []kms.KeyVersionName{}
	for _, k := range j.keys {
		if k.Signatures > 0 {
			m.Keys = append(m.Keys, *k)
			names = append(names, kms.KeyVersionName{KeyId: k.KeyId, KeyVersionId: k.KeyVersionId})
		}
	}
	slices.SortFunc(m.Keys, func(a, b Key) int { return strings.Compare(a.KeyVersionId, b.KeyVersionId) })
	if m.Results, err = writeOutput(j, r.Out); err != nil {
		return m, fmt.Errorf("writing %q: %w", r.Out, err)
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, err
	}
	if _, err := attestation.Write(ctx, r.Client.Caller, attestation.Batch, ManifestPath(r.Out), append(text, '\n'), names, false); err != nil {
		return m, fmt.Errorf("%w (every line is answered: run the same command again)", err)
	}
	return m, j.remove()
}

// writeOutput writes the results of a journal to a file, and returns its SHA-256 in hexadecimal. If
// the file exists, it must have the results already.
func writeOutput(j *journal, out string) (string, error) {
	sum := sha256.New()
	write := func(w io.Writer) error {
		sum.Reset()
		again := &journal{file: j.file, keys: make(map[string]*Key)}
		buffered := bufio.NewWriter(io.MultiWriter(w, sum))
		err := again.replay(func(result Result) error {
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
