package audit

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// A Verifier says what a log is checked against.
type Verifier struct {
	Key    PublicKey   // checks checkpoints; nil: signatures are not checked and nothing is proven
	After  *Checkpoint // the first line to verify follows this one; nil: the first file begins with line 1
	Expect *Checkpoint // a line that the log must contain; nil: none
}

// A VerifyResult is what a verification found.
type VerifyResult struct {
	Lines       uint64 // audit lines, torn ones not counted
	First, Last Head
	LastTime    time.Time
	Checkpoints uint64
	Proven      Head      // the last line that a checkpoint covers; zero: none
	ProvenTime  time.Time // when that was signed
	Void        uint64    // lines that count for nothing: in files given up, behind the last line known to be flushed
	Restored    []Head    `json:",omitempty"` // the heads of the backups that the records were restored from, in the order of the lines
}

// ErrTorn is Verify's error when the last line of all is incomplete: it is being
// written, a crash tore it, or somebody cut the file.
var ErrTorn = errors.New("the last line is incomplete: it is being written, a crash tore it and nothing was written since, or the file was cut")

// ErrFilesMissing is Verify's error when the first file does not begin with line
// 1. With Verifier.After it can be verified by itself.
var ErrFilesMissing = errors.New("the files before it are missing")

// A File is one of a log's files, with a name for errors.
type File struct {
	Name string
	io.Reader
}

// Verify reads a log's files, the oldest first. Its error names the first line, as
// counted in its file, at which something is wrong; the result is of the
// lines before it. With a Key, a log that no checkpoint covers is an error: anybody
// can make such a log.
func (v Verifier) Verify(files ...File) (VerifyResult, error) {
	r := &reading{Verifier: v, head: beginning}
	r.hashes[beginning.Seq] = beginning.Hash
	if err := r.begin(); err != nil {
		return VerifyResult{}, err
	}
	for _, file := range files {
		if err := r.file(file); err != nil {
			return r.result, err
		}
	}
	return r.result, r.end()
}

// remembered is how far back a checkpoint may reach, in lines. The writer stays
// well within it.
const remembered = 1 << 16

// A reading is the state of one Verify.
type reading struct {
	Verifier
	result   VerifyResult
	head     Head   // of the last line
	torn     string // the hash of the last line if it is torn; "" if it is not
	first    bool   // the next line is the first one of its file
	broken   error  // what is wrong with the end of the previous file, unless that end counts for nothing
	hashes   [remembered]string
	expected bool // the line to Expect was seen
}

func (r *reading) begin() error {
	for use, c := range map[string]*Checkpoint{"begin after": r.After, "expect": r.Expect} {
		if c != nil && r.Key != nil && !c.Check(r.Key) {
			return fmt.Errorf("the signature of the head to %s does not match the public key", use)
		}
	}
	if r.After != nil {
		r.note(r.After.Head)
	}
	return nil
}

// note takes a head as that of the last line.
func (r *reading) note(head Head) {
	r.head = head
	r.hashes[head.Seq%remembered] = head.Hash
	if r.Expect != nil && r.Expect.Head == head {
		r.expected = true
	}
}

// knows reports whether a head is one of the last lines.
func (r *reading) knows(head Head) bool {
	return head.Seq <= r.head.Seq && head.Seq+remembered > r.head.Seq && r.hashes[head.Seq%remembered] == head.Hash
}

func (r *reading) file(file File) error {
	r.first = true
	lines := scanLines(file)
	n := 1
	for ; lines.Scan(); n++ {
		err := r.line(lines.Bytes())
		switch {
		case err == nil:
		case r.broken != nil: // and not forgiven
			return r.broken
		case r.first:
			return fmt.Errorf("%s: line %d: %w", file.Name, n, err)
		default:
			// The next file may say that the end of this one counts for nothing.
			r.broken = fmt.Errorf("%s: line %d: %w", file.Name, n, err)
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
	case r.broken != nil && !(ok && r.first && line.hasKind(KindAbandoned)):
		return r.broken
	case !ok && r.torn != "":
		return errors.New("two lines in a row are not audit lines")
	case !ok:
		r.torn, r.first = hashOf(text), false
		return nil
	}
	if passed, err := r.passOver(line, text); passed || err != nil {
		return err
	}
	kind, err := kindOf(line)
	if err != nil {
		return err
	}
	if kind.link != nil {
		if err := kind.link(r, line); err != nil {
			return err
		}
	}
	if err := r.follow(line); err != nil {
		return err
	}
	r.torn, r.first = "", false
	r.note(Head{line.Seq, hashOf(text)})
	r.result.Lines++
	r.result.Last, r.result.LastTime = r.head, line.Time()
	if r.result.Lines == 1 {
		r.result.First = r.head
	}
	if kind.take != nil {
		return kind.take(r, line)
	}
	return nil
}

// kindOf returns what is known of a line's kind: nothing, if it is of a request or
// a later version wrote it. A known kind has to fit the line's fields, or a line
// could pass for something that it is not.
func kindOf(line Line) (kindInfo, error) {
	if line.Event == nil {
		return kindInfo{}, nil
	}
	info, ok := line.Event.Kind.info()
	if fields := line.Event.kindOfFields(); ok && fields != info.kind {
		return info, fmt.Errorf("its Kind is %q and its fields are those of %q", info.kind, fields)
	}
	return info, nil
}

// passOver skips the lines up to After, and checks that line's hash.
func (r *reading) passOver(line Line, text []byte) (passed bool, err error) {
	if r.After == nil || r.result.Lines > 0 || line.Seq > r.After.Seq {
		return false, nil
	}
	if line.Seq == r.After.Seq && hashOf(text) != r.After.Hash {
		return false, errors.New("it is not the line that was there: the log was rewritten")
	}
	r.torn, r.first = "", false
	return true, nil
}

// restored takes the head of a backup that a line names. A log can begin behind
// such a head as it can behind After: the key has signed both. The head alone
// proves nothing about the lines behind it.
func (r *reading) restored(line Line) error {
	head := line.Event.Restored
	switch {
	case r.Key != nil && !head.Check(r.Key):
		return errors.New("the signature of the backup's head in it does not match the public key")
	case r.result.Lines == 0 && r.After == nil && line.Seq > 1 && line.Prev == head.Hash && line.Seq == head.Seq+1:
		r.note(head.Head)
	}
	r.result.Restored = append(r.result.Restored, head.Head)
	return nil
}

// follow checks that a line is the next one.
func (r *reading) follow(line Line) error {
	want := r.head.Hash
	if r.torn != "" {
		want = r.torn
	}
	switch {
	case r.result.Lines == 0 && r.After == nil && line.Seq != r.head.Seq+1:
		return fmt.Errorf("it is line %d of the log: %w", line.Seq, ErrFilesMissing)
	case r.result.Lines == 0 && r.After != nil && line.Seq > r.After.Seq+1:
		return fmt.Errorf("it is line %d of the log: those from line %d on are missing", line.Seq, r.After.Seq+1)
	case line.Seq != r.head.Seq+1 || line.Prev != want:
		return fmt.Errorf("it says Seq %d after %.16s…, but follows Seq %d with %.16s…: a line was changed, removed or moved", line.Seq, line.Prev, r.head.Seq, want)
	case line.hasKind(KindRecovered) != (r.torn != ""):
		return errors.New("a line is torn and not recovered, or recovered and not torn")
	}
	return nil
}

// abandon returns to the line that a new file follows. The lines behind it are in a
// file whose flush failed, and nobody was answered on the strength of them. Lines
// that a checkpoint covers had been flushed, so none of them can be among these.
func (r *reading) abandon(line Line) error {
	target := Head{line.Seq - 1, line.Prev}
	if !r.first || !r.knows(target) || r.result.Proven.Seq > target.Seq || r.expected && r.Expect.Seq > target.Seq {
		return errors.New("it abandons lines that were proven, or that are not the last of a file")
	}
	void := r.head.Seq - target.Seq
	r.result.Lines, r.result.Void = r.result.Lines-min(void, r.result.Lines), r.result.Void+void
	r.head, r.torn, r.broken = target, "", nil
	return nil
}

func (r *reading) checkpoint(line Line) error {
	c := line.Event.Checkpoint
	skipped := r.After != nil && c.Seq < r.After.Seq // of a line that was passed over
	if c.Seq >= line.Seq || !skipped && !r.knows(c.Head) {
		return fmt.Errorf("its checkpoint names no line before it, but Seq %d with %.16s…", c.Seq, c.Hash)
	}
	if r.Key == nil {
		return nil
	}
	if !c.Check(r.Key) {
		return errors.New("the signature of its checkpoint does not match the public key")
	}
	r.result.Checkpoints++
	if c.Seq > r.result.Proven.Seq {
		r.result.Proven, r.result.ProvenTime = c.Head, c.Time
	}
	return nil
}

// end checks what can be known only at the end.
func (r *reading) end() error {
	switch {
	case r.broken != nil:
		return r.broken
	case r.torn != "":
		return ErrTorn
	case r.Expect != nil && !r.expected && r.Expect.Seq > r.head.Seq:
		return fmt.Errorf("the log ends with line %d, and line %d was there at %s: its tail is cut off", r.head.Seq, r.Expect.Seq, r.Expect.Time.UTC().Format(time.RFC3339))
	case r.Expect != nil && !r.expected:
		return fmt.Errorf("line %d is not the one that was there at %s: the log was rewritten", r.Expect.Seq, r.Expect.Time.UTC().Format(time.RFC3339))
	case r.Key != nil && r.result.Checkpoints == 0:
		return errors.New("there is no checkpoint in it, so it proves nothing")
	}
	return nil
}
