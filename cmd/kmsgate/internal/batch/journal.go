package batch

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// A journal holds what a batch has done so far, in the file OUT.partial. Each line of it is a record.
// It begins with a begin, so no other file is taken for a journal. When append
// returns, its records are on stable storage.
type journal struct {
	file *os.File

	begin   begin
	runs    []Run
	keys    map[string]*Key // by KeyVersionId
	results int
	signed  int
}

// A record is a line of the journal. One of its members is set.
type record struct {
	Begin  *begin  `json:",omitempty"`
	Run    *Run    `json:",omitempty"` // before the first request of the run
	Key    *Key    `json:",omitempty"` // before the first result with the key version
	Result *Result `json:",omitempty"`
}

// A begin names the batch.
type begin struct {
	Format   string // format
	Batch    string // an id
	Time     time.Time
	Requests string // the SHA-256 of the list, in hexadecimal
	Lines    int    // of the list
}

// format is the first member of every journal and manifest.
const format = "kmsgate batch 1"

// A Run is one start of a batch. The lines in flight when an earlier run ended can have been signed
// twice.
type Run struct {
	Time       time.Time
	After      int // as many lines had a result
	MaybeTwice int // as many lines after these can have been signed by an earlier run as well
}

// A Key is a key version that signs in a batch.
type Key struct {
	KeyId        string
	KeyVersionId string
	KeySpec      string
	PublicKey    []byte // SubjectPublicKeyInfo, DER
	Signatures   int    `json:",omitempty"`
}

func journalPath(out string) string { return out + ".partial" }

// openJournal opens and locks the journal of an output, or creates it with what start returns.
func openJournal(out string, start begin) (*journal, error) {
	path := journalPath(out)
	for {
		file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			text, err := json.Marshal(record{Begin: &start})
			if err != nil {
				return nil, err
			}
			if err := durable.Create(path, append(text, '\n')); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, fmt.Errorf("creating the journal of the batch: %w", err)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		current, err := lockCurrent(file)
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if current {
			return &journal{file: file, keys: make(map[string]*Key)}, nil
		}
		if err := file.Close(); err != nil {
			return nil, err
		}
	}
}

// lockCurrent locks an open journal, and reports whether the path still names it: the batch can have
// ended before the lock was taken.
func lockCurrent(file *os.File) (bool, error) {
	err := durable.Lock(file)
	if errors.Is(err, durable.ErrLocked) {
		return false, fmt.Errorf("another kmsgate batch is writing %s: wait until it ends (%w)", file.Name(), err)
	}
	if err != nil {
		return false, err
	}
	opened, err := file.Stat()
	if err != nil {
		return false, err
	}
	if !opened.Mode().IsRegular() {
		return false, fmt.Errorf("%s is not a regular file", file.Name())
	}
	// Anyone who can write the journal can invent refusals.
	if owner, ok := opened.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Getuid() || opened.Mode().Perm()&0o022 != 0 {
		return false, fmt.Errorf("%s belongs to another user, or others can write it: run as the user who began the batch, or move the file away to begin again", file.Name())
	}
	named, err := os.Stat(file.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(opened, named), err
}

// replay reads the journal, and cuts off a torn record at its end. It calls each with every result.
func (j *journal) replay(each func(Result) error) error {
	if _, err := j.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	records := bufio.NewReader(j.file)
	var end int64
	for n := 1; ; n++ {
		text, err := records.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // what is left is no complete record
		}
		if err != nil {
			return err
		}
		var r record
		if err := decode(text, &r); err != nil || (n == 1) != (r.Begin != nil) {
			return fmt.Errorf("%s:%d is not a record of a batch: restore the file, or move it away to begin again", j.file.Name(), n)
		}
		if err := j.apply(r, each); err != nil {
			return fmt.Errorf("%s:%d: %w", j.file.Name(), n, err)
		}
		end += int64(len(text))
	}
	if j.begin.Format != format {
		return fmt.Errorf("%s is not a journal of format %q: move it away", j.file.Name(), format)
	}
	if err := j.file.Truncate(end); err != nil {
		return err
	}
	_, err := j.file.Seek(end, io.SeekStart)
	return err
}

func (j *journal) apply(r record, each func(Result) error) error {
	switch {
	case r.Begin != nil:
		j.begin = *r.Begin
	case r.Run != nil:
		j.runs = append(j.runs, *r.Run)
	case r.Key != nil:
		j.keys[r.Key.KeyVersionId] = r.Key
	case r.Result != nil:
		if r.Result.Line != j.results+1 {
			return fmt.Errorf("it is the result of line %d, not of line %d", r.Result.Line, j.results+1)
		}
		j.results++
		if r.Result.Error == "" {
			key, ok := j.keys[r.Result.KeyVersionId]
			if !ok {
				return fmt.Errorf("key version %q is not recorded", r.Result.KeyVersionId)
			}
			key.Signatures++
			j.signed++
		}
		return each(*r.Result)
	}
	return nil
}

// append appends records and flushes them.
func (j *journal) append(records ...record) error {
	var all []byte
	for _, r := range records {
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		all = append(append(all, text...), '\n')
		if err := j.apply(r, func(Result) error { return nil }); err != nil {
			return err
		}
	}
	if _, err := j.file.Write(all); err != nil {
		return fmt.Errorf("writing the results: %w", err)
	}
	if err := unix.Fdatasync(int(j.file.Fd())); err != nil {
		return fmt.Errorf("flushing the results: %w", err)
	}
	return nil
}

// startRun records the start of a run.
func (j *journal) startRun(now time.Time) error {
	run := Run{Time: now.UTC(), After: j.results}
	if len(j.runs) > 0 {
		run.MaybeTwice = min(Window, j.begin.Lines-j.results)
	}
	return j.append(record{Run: &run})
}

// remove removes the journal: the output is complete.
func (j *journal) remove() error { return os.Remove(j.file.Name()) }

func (j *journal) close() error { return j.file.Close() }
