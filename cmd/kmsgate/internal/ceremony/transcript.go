package ceremony

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/attestation"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// transcriptFormat is the format of transcripts.
const transcriptFormat = "kmsgate ceremony 1"

// A Transcript says what a ceremony did. The files beside it prove who presented it, and what the
// token reports: see package attestation.
type Transcript struct {
	Format    string // transcriptFormat
	Ceremony  string // the id in the audit log's References
	Title     string
	Operators []string // as the plan names them
	Instance  string   // the ARN of the instance
	Plan      string   // the text of the plan
	Began     time.Time
	Ended     time.Time `json:",omitzero"`
	Steps     []Step
	Keys      []KeyRecord
}

// A KeyRecord is a key of a plan, as it is when the ceremony ends.
type KeyRecord struct {
	Alias              string
	KeyId              string
	KeySpec            hsm.KeySpec
	KeyVersionIds      []string
	Policy             string // its key policy
	DeletionProtection string
}

// DefaultPath returns the path of the transcript of a plan.
func DefaultPath(plan string) string { return plan + ".transcript" }

func partialPath(path string) string { return path + ".partial" }

func (t Transcript) encode() ([]byte, error) {
	text, err := json.MarshalIndent(t, "", "  ")
	return append(text, '\n'), err
}

// decodeTranscript decodes the text of a transcript, which must be as kmsgate writes it.
func decodeTranscript(text []byte) (t Transcript, err error) {
	if err := attestation.DecodeExact(text, &t, func(any) ([]byte, error) { return t.encode() }); err != nil {
		return t, err
	}
	if t.Format != transcriptFormat {
		return t, fmt.Errorf("it is not of format %q", transcriptFormat)
	}
	return t, nil
}

// save writes an unfinished transcript, on stable storage when it returns.
func (t Transcript) save(path string) error {
	text, err := t.encode()
	if err == nil {
		err = durable.Write(partialPath(path), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("writing %q: %w", partialPath(path), err)
	}
	return nil
}

// setStep records a step, in place of what is recorded about it.
func (t *Transcript) setStep(s Step) {
	for i, old := range t.Steps {
		if old.Action == s.Action && old.Name == s.Name {
			t.Steps[i] = s
			return
		}
	}
	t.Steps = append(t.Steps, s)
}

// step returns what is recorded about a step.
func (t Transcript) step(action, name string) (Step, bool) {
	for _, s := range t.Steps {
		if s.Action == action && s.Name == name {
			return s, true
		}
	}
	return Step{}, false
}

// readPartial reads an unfinished transcript. It must be this user's own: anyone who can write it can
// invent steps.
func readPartial(path string) (t Transcript, exists bool, err error) {
	path = partialPath(path)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return t, false, nil
	}
	if err != nil {
		return t, false, err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || !info.Mode().IsRegular() || int(owner.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return t, false, fmt.Errorf("%s must be a file that only you can write, since others could invent steps: run as the user who began the ceremony, or check the file and run chmod go-w on it", path)
	}
	t, err = readTranscript(path)
	return t, true, err
}

func readTranscript(path string) (t Transcript, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return t, err
	}
	if t, err = decodeTranscript(text); err != nil {
		return t, fmt.Errorf("%s is not a transcript of a ceremony: move it away, or choose another with --out (%w)", path, err)
	}
	return t, nil
}
