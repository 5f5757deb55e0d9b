package batch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/attestation"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/internal/durable"
)

// format is the first member of every journal and manifest.
const format = "kmsgate batch 1"

// A record is a part of the journal. One of its members is set.
type record struct {
	Begin  *begin  `json:",omitempty"` // the first record, and only that
	Run    *Run    `json:",omitempty"` // before the first request of a run
	Use    *use    `json:",omitempty"` // before the first result with the key
	Again  *Span   `json:",omitempty"` // before lines are asked for that can have been signed
	Result *Result `json:",omitempty"`
}

// A begin names the batch.
type begin struct {
	Format   string // format
	Batch    string // an id
	Instance string // the ARN of the instance that signs
	// Directory is where the batch began: the Files of requests are relative to it.
	Directory string
	Time      time.Time
	Requests  string // the SHA-256 of the list, in hexadecimal
	Lines     int    // of the list
}

// A Run is one start of a batch. An earlier run can have signed lines that were in flight at its end.
type Run struct {
	Time  time.Time
	After int // the lines up to this one had results
}

// A use is the key that requests of one name get.
type use struct {
	Name  name
	Signs string // the algorithm
	Key
}

// A Key is a key version that signs in a batch.
type Key struct {
	KeyId        string
	KeyVersionId string
	KeySpec      string
	PublicKey    []byte // SubjectPublicKeyInfo, DER
}

// A journal holds what a batch has done so far, in the file OUT.partial. Each line of it is a JSON
// list of the records that were flushed together, so a crash can damage only the last line. The
// first record is a begin: no other file is taken for a journal. When append returns, its records
// are on stable storage. Results are in the order in which the gateway answered, at most Window
// lines apart.
type journal struct {
	file  *os.File
	begin begin

	mu     sync.Mutex // guards the rest
	failed error      // why nothing can be appended any more
	runs   []Run
	uses   []use
	again  spans
	done   int          // every line up to this one has a result
	ahead  map[int]bool // the lines after done that have one
	signed int
	counts map[string]int // signatures by KeyVersionId
}

func journalPath(out string) string { return out + ".partial" }

// openJournal opens, locks and reads the journal of an output, or creates it with start.
func openJournal(out string, start begin) (*journal, error) {
	for {
		file, err := os.OpenFile(journalPath(out), os.O_RDWR|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			text, err := json.Marshal([]record{{Begin: &start}})
			if err != nil {
				return nil, err
			}
			if err := durable.Create(journalPath(out), append(text, '\n')); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, fmt.Errorf("creating the journal of the batch: %w", err)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		current, err := lockCurrent(file)
		if current && err == nil {
			j := &journal{file: file, ahead: make(map[int]bool), counts: make(map[string]int)}
			if err = j.load(); err == nil {
				return j, nil
			}
		}
		if err := errors.Join(err, file.Close()); err != nil {
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
		return false, fmt.Errorf("%s belongs to another user, or others can write it: run as the user who began the batch, or choose another output, which signs every line again", file.Name())
	}
	named, err := os.Lstat(file.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(opened, named), err
}

// load reads the journal, and cuts off a last line that a crash has torn or damaged.
func (j *journal) load() error {
	end, damaged, err := j.read(j.apply)
	if err != nil {
		return err
	}
	if j.begin.Format != format {
		return fmt.Errorf("%s is not a journal of format %q: move it away", j.file.Name(), format)
	}
	if err := j.file.Truncate(end); err != nil || !damaged {
		return err
	}
	// If the disk had reported the line as flushed, lines after those of it were asked for as well.
	return j.append(record{Again: &Span{j.done + 1, min(j.done+2*Window, j.begin.Lines)}})
}

// read calls each with every record. It returns where the last good line ends, and whether a torn or
// damaged one follows.
func (j *journal) read(each func(record) error) (end int64, damaged bool, err error) {
	lines := bufio.NewReader(io.NewSectionReader(j.file, 0, 1<<62))
	for n := 1; ; n++ {
		text, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return end, len(text) > 0, nil
		}
		if err != nil {
			return 0, false, err
		}
		var records []record
		if err = attestation.DecodeExact(bytes.TrimSuffix(text, []byte("\n")), &records, json.Marshal); err != nil {
			if _, last := lines.Peek(1); n > 1 && errors.Is(last, io.EOF) {
				return end, true, nil
			}
		}
		for i, r := range records {
			if err == nil && (n == 1 && i == 0) != (r.Begin != nil) {
				err = errors.New("a journal has one Begin, at its beginning")
			}
			if err == nil {
				err = each(r)
			}
		}
		if err != nil {
			return 0, false, fmt.Errorf("%s:%d is not of this batch: restore the file, or choose another output, which signs every line again (%w)", j.file.Name(), n, err)
		}
		end += int64(len(text))
	}
}

// apply takes a record into the state.
func (j *journal) apply(r record) error {
	switch {
	case r.Begin != nil:
		j.begin = *r.Begin
	case r.Run != nil:
		if len(j.runs) > 0 {
			j.again.add(r.Run.After+1, min(r.Run.After+Window, j.begin.Lines))
		}
		j.runs = append(j.runs, *r.Run)
	case r.Use != nil:
		j.uses = append(j.uses, *r.Use)
	case r.Again != nil:
		j.again.add(r.Again.From, r.Again.To)
	case r.Result != nil:
		return j.applyResult(*r.Result)
	}
	return nil
}

func (j *journal) applyResult(r Result) error {
	if r.Line <= j.done || r.Line > j.done+Window || r.Line > j.begin.Lines || j.ahead[r.Line] {
		return fmt.Errorf("it has a result of line %d after those up to line %d", r.Line, j.done)
	}
	j.ahead[r.Line] = true
	for j.ahead[j.done+1] {
		j.done++
		delete(j.ahead, j.done)
	}
	if r.Error == "" {
		j.counts[r.KeyVersionId]++
		j.signed++
	}
	return nil
}

// append appends records and flushes them.
func (j *journal) append(records ...record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.appendLocked(records...)
}

func (j *journal) appendLocked(records ...record) error {
	if j.failed != nil {
		return j.failed
	}
	text, err := json.Marshal(records)
	for _, r := range records {
		if err == nil {
			err = j.apply(r)
		}
	}
	if err != nil {
		j.failed = err
		return err
	}
	end, err := j.file.Seek(0, io.SeekEnd)
	if err != nil {
		j.failed = err
		return err
	}
	if _, err := j.file.Write(append(text, '\n')); err != nil {
		j.failed = fmt.Errorf("writing the results: %w", err)
	} else if err := unix.Fdatasync(int(j.file.Fd())); err != nil {
		j.failed = fmt.Errorf("flushing the results: %w", err)
	}
	if j.failed != nil { // nothing may follow a line that perhaps is not on the disk
		return errors.Join(j.failed, j.file.Truncate(end))
	}
	return nil
}

// startRun records the start of a run.
func (j *journal) startRun(now time.Time) error {
	return j.append(record{Run: &Run{Time: now.UTC(), After: j.done}})
}

// use records the key that a name gets.
func (j *journal) use(u use) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	versions := map[string]bool{u.KeyVersionId: true}
	for _, other := range j.uses {
		versions[other.KeyVersionId] = true
	}
	if len(versions) > MaxKeys {
		return &signer.UnfitError{Reason: fmt.Sprintf("%d other key versions sign in this batch: split the list", MaxKeys)}
	}
	return j.appendLocked(record{Use: &u})
}

// results calls each with every result, in the order of the lines.
func (j *journal) results(each func(Result) error) error {
	next, early := 1, make(map[int]Result)
	_, _, err := j.read(func(r record) error {
		if r.Result == nil {
			return nil
		}
		early[r.Result.Line] = *r.Result
		for {
			result, ok := early[next]
			if !ok {
				return nil
			}
			delete(early, next)
			next++
			if err := each(result); err != nil {
				return err
			}
		}
	})
	return err
}

// remove removes the journal: the output is complete.
func (j *journal) remove() error { return os.Remove(j.file.Name()) }

func (j *journal) close() error { return j.file.Close() }
