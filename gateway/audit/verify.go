package audit

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// A Verifier configures the verification of a log.
type Verifier struct {
	Key    PublicKey   // checks checkpoints; with nil, signatures are not checked and nothing is proven
	After  *Checkpoint // verification begins after this line; nil means at the log's beginning
	Expect *Checkpoint // a line that the log must contain; nil means none
}

// A VerifyResult is the result of a verification.
type VerifyResult struct {
	Lines       uint64 // audit lines, not counting torn ones
	First, Last Head
	LastTime    time.Time
	Checkpoints uint64
	Proven      Head       // the last line that a checkpoint covers; zero if there is none
	ProvenTime  time.Time  // when that checkpoint was signed
	Void        uint64     // void lines: those in abandoned files after the last line known to be flushed
	Restored    []Head     `json:",omitempty"` // the heads of the backups restored, in the order of the lines
	RolledBack  []Rollback `json:",omitempty"` // the older databases accepted, in the order of the lines
	InDoubt     []uint64   `json:",omitempty"` // lines that a start after a crash named, because nothing tells whether their results were released
	Deleted     *Head      `json:",omitempty"` // the last line that retention deleted, if the log begins after it
}

// ErrTorn is Verify's error for an incomplete last line. Either it is being written, a crash tore
// it, or someone cut the file.
var ErrTorn = errors.New("the last line is incomplete: it is being written, a crash tore it, or the file was cut")

// ErrFilesMissing is Verify's error for a first file that does not begin with line 1, unless a
// restored event or a deleted event explains that. With [Verifier].After such a file can be verified
// separately.
var ErrFilesMissing = errors.New("the files before it are missing")

// A File is one of a log's files, with its name for errors. The reader of a compressed file is that
// of [Decompress].
type File struct {
	Name string
	io.Reader
}

// Verify reads a log's files, the oldest first. Its error names the first wrong line, as counted in
// its file. The result covers the lines before it. With a Key, a log without a checkpoint is an
// error, because anyone can write such a log.
//
// A log whose oldest files retention has deleted begins with a line N+1. Verify accepts that if a
// deleted event in the log names line N and a checkpoint covers this event.
func (v Verifier) Verify(files ...File) (VerifyResult, error) {
	r := newReading(v)
	if err := r.start(); err != nil {
		return VerifyResult{}, err
	}
	for _, file := range files {
		if err := r.file(file); err != nil {
			return r.result, err
		}
	}
	return r.result, r.end()
}

// historySize is the number of lines that a verifier remembers, and so the maximum distance between
// a checkpoint and the line that it names. The writer uses at most half of it.
const historySize = 1 << 16

// A reading is the state of one Verify.
type reading struct {
	Verifier
	result    VerifyResult
	name      string // of the current file
	head      Head   // the last line
	torn      string // the hash of the last line if it is torn; otherwise empty
	first     bool   // the next line is the first of its file
	fileErr   error  // the error at the end of the previous file, unless that end is void
	hashes    [historySize]string
	hasExpect bool // the line Expect was read

	beginning beginning
	follows   *Head       // the line that the current file follows; nil until its first line was read
	newest    time.Time   // the latest time of a line
	done      func() bool // called after each line; true ends the reading with errDone; nil means to read all lines
}

// errDone ends a reading before the end of the log.
var errDone = errors.New("done")

func newReading(v Verifier) *reading {
	r := &reading{Verifier: v, head: emptyHead}
	r.hashes[emptyHead.Seq] = emptyHead.Hash
	return r
}

func (r *reading) start() error {
	for role, c := range map[string]*Checkpoint{"starting": r.After, "expected": r.Expect} {
		if c != nil && r.Key != nil && !c.Check(r.Key) {
			return fmt.Errorf("the signature of the %s head does not match the public key", role)
		}
	}
	if r.After != nil {
		r.advance(r.After.Head)
	}
	return nil
}

// advance records head as the last line.
func (r *reading) advance(head Head) {
	r.head = head
	r.hashes[head.Seq%historySize] = head.Hash
	if r.Expect != nil && r.Expect.Head == head {
		r.hasExpect = true
	}
}

// remembers reports whether head is one of the last lines.
func (r *reading) remembers(head Head) bool {
	return head.Seq <= r.head.Seq && head.Seq+historySize > r.head.Seq && head.Hash != "" &&
		r.hashes[head.Seq%historySize] == head.Hash
}

func (r *reading) file(file File) error {
	r.name, r.first, r.follows = file.Name, true, nil
	lines := scanLines(file)
	n := 1
	for ; lines.Scan(); n++ {
		err := r.line(lines.Bytes())
		switch {
		case err == nil:
		case errors.Is(err, errDone):
			return err
		case r.fileErr != nil: // the end of the previous file is not void
			return r.fileErr
		case r.first:
			return fmt.Errorf("%s: line %d: %w", file.Name, n, err)
		default:
			// The error does not matter if the next file abandons the end of this one.
			r.fileErr = fmt.Errorf("%s: line %d: %w", file.Name, n, err)
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: line %d: %w", file.Name, n, err)
	}
	return nil
}

func (r *reading) line(text []byte) error {
	line, ok := parseLine(text)
	switch {
	case r.fileErr != nil && !(ok && r.first && line.hasKind(KindAbandoned)):
		return r.fileErr
	case !ok && r.torn != "":
		return errors.New("two lines in a row are not audit lines")
	case !ok:
		r.torn, r.first = hashOf(text), false
		return nil
	}
	if skipped, err := r.skip(line, text); skipped || err != nil {
		return err
	}
	kind, err := kindOf(line)
	if err != nil {
		return err
	}
	r.beginAt(line)
	if kind.prepare != nil {
		if err := kind.prepare(r, line); err != nil {
			return err
		}
	}
	if err := r.checkNext(line); err != nil {
		return err
	}
	r.accept(line, text)
	if kind.accept != nil {
		if err := kind.accept(r, line); err != nil {
			return err
		}
	}
	if r.done != nil && r.done() {
		return errDone
	}
	return nil
}

// accept records a line as the next one of the chain.
func (r *reading) accept(line Line, text []byte) {
	if r.follows == nil {
		follows := r.head
		r.follows = &follows
	}
	r.torn, r.first = "", false
	r.advance(Head{line.Seq, hashOf(text)})
	r.result.Lines++
	r.result.Last, r.result.LastTime = r.head, line.Time()
	if r.result.Lines == 1 {
		r.result.First = r.head
	}
	if t := line.Time(); t.After(r.newest) {
		r.newest = t
	}
}

// kindOf returns the description of a line's kind. It is empty for the line of a request and for a
// kind of a later version. A known kind must match the line's fields, so that no line can pass for
// one of another kind.
func kindOf(line Line) (kindInfo, error) {
	if line.Event == nil {
		return kindInfo{}, nil
	}
	info, ok := line.Event.Kind.info()
	if fields := line.Event.kindOfFields(); ok && fields != info.kind {
		return info, fmt.Errorf("its Kind is %q but its fields are those of %q", info.kind, fields)
	}
	return info, nil
}

// skip skips the lines up to After and checks the hash of After.
func (r *reading) skip(line Line, text []byte) (skipped bool, err error) {
	if r.After == nil || r.result.Lines > 0 || line.Seq > r.After.Seq {
		return false, nil
	}
	if line.Seq == r.After.Seq && hashOf(text) != r.After.Hash {
		return false, errors.New("it is not the line of the starting head: the log was rewritten")
	}
	r.torn, r.first = "", false
	return true, nil
}

// missingLines says that the lines from first to last are missing.
func missingLines(first, last uint64) string {
	if first == last {
		return fmt.Sprintf("line %d is missing", first)
	}
	return fmt.Sprintf("lines %d to %d are missing", first, last)
}

// checkNext checks that a line is the next one.
func (r *reading) checkNext(line Line) error {
	want := r.head.Hash
	if r.torn != "" {
		want = r.torn
	}
	switch {
	case r.result.Lines == 0 && r.After != nil && line.Seq > r.After.Seq+1:
		return fmt.Errorf("the log begins with line %d: %s after the starting head (if retention has deleted them, "+
			"verify without that head)", line.Seq, missingLines(r.After.Seq+1, line.Seq-1))
	case line.Seq > r.head.Seq+1:
		return fmt.Errorf("%s: line %d follows line %d", missingLines(r.head.Seq+1, line.Seq-1), line.Seq, r.head.Seq)
	case line.Seq != r.head.Seq+1 || line.Prev != want:
		return fmt.Errorf("a line was changed, removed or moved: Seq %d after %.16s… does not follow Seq %d with %.16s…",
			line.Seq, line.Prev, r.head.Seq, want)
	case line.hasKind(KindRecovered) != (r.torn != ""):
		return errors.New("a torn line lacks its recovered event, or a recovered event lacks its torn line")
	}
	return nil
}

// abandon returns to the line that a new file follows. The lines after it are in a file whose flush
// failed, and no request was answered because of them. Lines covered by a checkpoint had been
// flushed, so none of them can be among these.
func (r *reading) abandon(line Line) error {
	target := Head{line.Seq - 1, line.Prev}
	if !r.first || !r.remembers(target) || r.result.Proven.Seq > target.Seq || r.hasExpect &&
		r.Expect.Seq > target.Seq {
		return errors.New("it abandons lines that were proven or that are not the last of a file")
	}
	void := r.head.Seq - target.Seq
	r.result.Lines, r.result.Void = r.result.Lines-min(void, r.result.Lines), r.result.Void+void
	r.head, r.torn, r.fileErr = target, "", nil
	r.beginning.abandon(target)
	return nil
}

func (r *reading) checkpoint(line Line) error {
	c := line.Event.Checkpoint
	// The named line can be one that was skipped or deleted.
	skipped := r.After != nil && c.Seq < r.After.Seq || r.beginning.lacks(c.Seq)
	if c.Seq >= line.Seq || !skipped && !r.remembers(c.Head) {
		return fmt.Errorf("its checkpoint names Seq %d with %.16s…, which is not an earlier line", c.Seq, c.Hash)
	}
	if r.Key != nil && !c.Check(r.Key) {
		return errors.New("the signature of its checkpoint does not match the public key")
	}
	r.cover(c.Seq)
	if r.Key == nil {
		return nil
	}
	r.result.Checkpoints++
	if c.Seq > r.result.Proven.Seq {
		r.result.Proven, r.result.ProvenTime = c.Head, c.Time
	}
	return nil
}

// end makes the checks that are possible only at the end of the log.
func (r *reading) end() error {
	switch {
	case r.fileErr != nil:
		return r.fileErr
	case r.torn != "":
		return ErrTorn
	case r.beginning.after.Seq > 0 && !r.beginning.explained:
		after := r.beginning.after.Seq
		return fmt.Errorf("%s: the log begins with line %d: %s, and no line proves that retention deleted them: %w",
			r.beginning.file, after+1, missingLines(1, after), ErrFilesMissing)
	case r.Expect != nil && !r.hasExpect && r.beginning.lacks(r.Expect.Seq):
		return fmt.Errorf("line %d cannot be compared: retention has deleted the lines up to %d (expect a later head)",
			r.Expect.Seq, r.beginning.after.Seq)
	case r.Expect != nil && !r.hasExpect && r.Expect.Seq > r.head.Seq:
		return fmt.Errorf("the log ends with line %d but had line %d at %s: its end was cut off",
			r.head.Seq, r.Expect.Seq, r.Expect.Time.UTC().Format(time.RFC3339))
	case r.Expect != nil && !r.hasExpect:
		return fmt.Errorf("line %d is not the one of %s: the log was rewritten",
			r.Expect.Seq, r.Expect.Time.UTC().Format(time.RFC3339))
	case r.Key != nil && r.result.Checkpoints == 0:
		return errors.New("the log has no checkpoint, so nothing in it is proven")
	}
	return nil
}
