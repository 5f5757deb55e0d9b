package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/internal/durable"
)

// resume finds the log's end and repairs the damage of a crash there. It changes nothing before it
// has checked that the log is not missing lines.
func (w *writer) resume() error {
	end, err := w.findEnd()
	if err == nil && w.log.cfg.Restored != nil && end.path == "" {
		end.head = w.log.cfg.Restored.Head
	} else if err == nil {
		err = w.checkExpected(&end)
	}
	if err == nil {
		err = end.implausible
	}
	switch {
	case err != nil:
	case w.log.cfg.Ended && end.head == w.log.cfg.Expect:
		end.doubts = doubts{} // all intents were closed, even if no checkpoint says so
	default:
		err = w.findDoubts(&end)
	}
	rollback, accepted := w.rollback(end)
	switch {
	case rollback != nil && !accepted && w.log.cfg.Restored == nil && !w.log.cfg.AcceptRollback:
		return &RollbackError{*rollback, end.uncovered()}
	case err != nil && !w.log.cfg.AcceptLoss:
		return err
	case rollback != nil && !accepted && w.log.cfg.KeepRollback != nil:
		if err := w.log.cfg.KeepRollback(*rollback); err != nil {
			return fmt.Errorf("recording that the database is an older one: %w", err)
		}
	}
	if err != nil {
		err = w.acceptLoss(end, err)
		end.dropFrom(w.head.Seq) // that of the lost event
	} else {
		err = w.continueAt(end)
	}
	if err == nil && w.log.cfg.Restored != nil {
		err = w.writeEvent(Event{Kind: KindRestored, Restored: w.log.cfg.Restored})
	}
	if err == nil && rollback != nil {
		err = w.writeEvent(Event{Kind: KindRolledBack, RolledBack: rollback})
	}
	if err == nil {
		err = w.writeDoubts(end.doubts)
	}
	if err != nil {
		return errors.Join(err, w.close())
	}
	return nil
}

// A tail is the end of a log. The expected line is Config.Expect.
type tail struct {
	path      string    // of the last file; empty if the log has no file
	size      int64     // of the file's lines that form a chain, without a torn one
	first     Line      // the file's first line
	head      Head      // the last line of the chain
	time      time.Time // of that line
	fragment  []byte    // the part of a line after the chain; nil if there is none
	ended     bool      // the last line, complete or not, has its newline
	expectEnd int64     // the offset after the expected line
	newer     uint64    // the number of lines after the expected one
	hasExpect bool      // the log has the expected line
	changes
	doubts
}

// findEnd follows the chain of the last file. If the process ended after renaming a file and before
// beginning the next one, the renamed file is the last.
func (w *writer) findEnd() (tail, error) {
	cfg := w.log.cfg
	t := tail{head: emptyHead, first: Line{Seq: 1}, ended: true}
	t.changes = changes{known: cfg.Changes != nil, found: cfg.changes(), seen: cfg.SeenChange, change: cfg.SeenChange, key: cfg.Key}
	files, err := Files(w.log.cfg.Path)
	if err != nil {
		return t, err
	}
	for n := len(files); n > 0; n-- {
		info, err := os.Stat(files[n-1])
		if err != nil {
			return t, err
		}
		if !info.Mode().IsRegular() {
			return t, fmt.Errorf("%q is not a regular file", files[n-1])
		}
		if info.Size() == 0 && n > 1 {
			continue // the file was created but never written
		}
		t.path = files[n-1]
		if n > 1 && firstSeq(t.path) == math.MaxUint64 { // only then is the line before the file needed
			if err := t.startAfter(files[n-2]); err != nil {
				return t, err
			}
		}
		return t, t.walk(w.log.cfg.Expect)
	}
	return t, nil
}

// startAfter sets the head to the last line of the previous file, as far as it is known.
func (t *tail) startAfter(previous string) error {
	last, ok, err := lastLine(previous)
	if ok {
		t.head, t.time = Head{last.Seq, hashOf(last.text)}, last.Time()
	}
	return err
}

// walk reads the file up to the first line that does not follow the previous one.
func (t *tail) walk(expect Head) error {
	f, err := openFile(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	reader := bufio.NewReaderSize(f, 1<<20)
	t.hasExpect = expect.Seq == 0
	for n := 1; ; n++ {
		text, err := reader.ReadBytes('\n')
		if len(text) == 0 && errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading %q: %w", t.path, err)
		}
		if err := t.step(text, n == 1, expect); err != nil {
			return lossf("line %d of %q: %w", n, t.path, err)
		}
	}
}

// step processes the next line. text includes the newline if there is one.
func (t *tail) step(text []byte, first bool, expect Head) error {
	text, ended := bytes.CutSuffix(text, []byte{'\n'})
	length := int64(len(text))
	if ended {
		length++
	}
	line, ok := parseLine(text)
	switch {
	case !ok && t.fragment != nil:
		// An interrupted recovery wrote this part of a line. It can be ignored.
		if !ended && isFragment(text) {
			return nil
		}
		return errors.New("two lines in a row are not audit lines")
	case !ok && !isFragment(text):
		return errors.New("it is not an audit line: the file may not be an audit log")
	case !ok:
		t.fragment, t.ended = bytes.Clone(text), ended
		return nil
	}
	want := t.head.Hash
	if t.fragment != nil {
		want = hashOf(t.fragment)
		length += int64(len(t.fragment)) + 1
	}
	if !first && (line.Seq != t.head.Seq+1 || line.Prev != want || line.hasKind(KindRecovered) != (t.fragment != nil)) {
		return errors.New("it does not follow the previous line: a line was changed, or a power failure lost data")
	}
	if first {
		t.first = line
	}
	t.head, t.time = Head{line.Seq, hashOf(text)}, line.Time()
	t.fragment, t.ended = nil, ended
	t.size += length
	if t.hasExpect {
		t.newer++
	}
	t.saw(line, text)
	t.sawIntents(line)
	if t.head == expect {
		t.hasExpect, t.expectEnd = true, t.size
	}
	return nil
}

// rollback returns how far the records are behind the log, or nil if they are not. accepted means that an
// earlier Open accepted it.
func (w *writer) rollback(t tail) (r *Rollback, accepted bool) {
	if t.known && t.change > t.found {
		return &Rollback{Found: t.found, Seen: t.change}, false
	}
	return w.log.cfg.Rollback, w.log.cfg.Rollback != nil
}

// checkExpected returns a LossError unless the log has the expected line and reaches the minimum
// number.
func (w *writer) checkExpected(t *tail) error {
	expect := w.log.cfg.Expect
	minSeq := max(expect.Seq, w.log.cfg.MinSeq)
	if t.head.Seq < minSeq {
		return lossf("the log ends with line %d but had line %d: its end is missing", t.head.Seq, minSeq)
	}
	if !t.hasExpect && t.first.Seq > expect.Seq {
		err := w.log.readFrom(expect.Seq, func(line Line, text []byte) error {
			t.hasExpect = t.hasExpect || line.Seq == expect.Seq && hashOf(text) == expect.Hash
			t.saw(line, text)
			t.sawIntents(line)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if rollback, _ := w.rollback(*t); rollback != nil && t.hasExpect || expect.Seq == 0 {
		return nil
	}
	if !t.hasExpect {
		return lossf("line %d is not the recorded one: the log was changed", expect.Seq)
	}
	if w.log.cfg.Ended && t.head != expect {
		return lossf("the log ends with line %d instead of %d: lines were added while no gateway ran, "+
			"or the database is outdated", t.head.Seq, expect.Seq)
	}
	return nil
}

// continueAt opens the last file for writing and repairs its end.
func (w *writer) continueAt(t tail) error {
	w.head, w.lastTime = t.head, t.time
	switch {
	case t.path == "":
		return w.begin()
	case isCompressed(t.path):
		return w.continueAfter(t)
	}
	if err := w.reclaim(t.path); err != nil {
		return err
	}
	var err error
	if w.file, err = w.log.cfg.open(w.log.cfg.Path, os.O_RDWR); err != nil {
		return err
	}
	w.size, w.first, w.fileStart = t.size, t.first.Seq, t.first.Time()
	if err := w.repairEnd(t); err != nil {
		return errors.Join(err, w.close())
	}
	return nil
}

// continueAfter begins a file after a compressed one. The operator compressed it after the process
// had renamed it and before the next file began.
func (w *writer) continueAfter(t tail) error {
	if t.fragment != nil || !t.ended {
		return fmt.Errorf("%q ends with an incomplete line, which cannot be repaired in a compressed file "+
			"(decompress it with gzip -d)", t.path)
	}
	// A file at the log's path is empty: otherwise it would be the last one.
	if err := os.Remove(w.log.cfg.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.begin(); err != nil || t.newer == 0 || w.log.cfg.Expect.Seq == 0 {
		return err
	}
	if err := w.writeEvent(Event{Kind: KindUnwitnessed, Unwitnessed: t.newer}); err != nil {
		return errors.Join(err, w.close())
	}
	return nil
}

// reclaim moves a rotated file back to the log's path.
func (w *writer) reclaim(path string) error {
	if path == w.log.cfg.Path {
		return nil
	}
	if err := os.Rename(path, w.log.cfg.Path); err != nil { // it can replace only an empty file
		return err
	}
	return durable.SyncDir(filepath.Dir(w.log.cfg.Path))
}

// repairEnd rewrites the lines after the expected one. If the previous process ended after a failed
// flush, these lines may exist only in the kernel's memory, marked clean. It overwrites the remains
// of an interrupted recovery, ends a fragment with a newline, and adds a recovered event for it. An
// unwitnessed event counts the lines after the expected one. If a crash interrupts repairEnd, the
// next start can repeat all of it.
func (w *writer) repairEnd(t tail) error {
	content := make([]byte, t.size-t.expectEnd)
	if _, err := w.file.ReadAt(content, t.expectEnd); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !t.ended && t.fragment == nil { // the last line lacks only its newline
		content = append(content, '\n')
	}
	if t.fragment != nil {
		entry, err := encodeEvent(Event{Time: time.Now().UTC(), Kind: KindRecovered, Recovered: true})
		if err != nil {
			return err
		}
		line := Head{t.head.Seq, hashOf(t.fragment)}.appendNext(nil, entry)
		content = slices.Concat(content, t.fragment, []byte{'\n'}, line, []byte{'\n'})
		w.head = Head{t.head.Seq + 1, hashOf(line)}
	}
	if t.newer > 0 && w.log.cfg.Expect.Seq > 0 {
		entry, err := encodeEvent(Event{Time: time.Now().UTC(), Kind: KindUnwitnessed, Unwitnessed: t.newer})
		if err != nil {
			return err
		}
		line := w.head.appendNext(nil, entry)
		content = slices.Concat(content, line, []byte{'\n'})
		w.head = Head{w.head.Seq + 1, hashOf(line)}
	}
	if _, err := w.file.WriteAt(content, t.expectEnd); err != nil {
		return err
	}
	w.size = t.expectEnd + int64(len(content))
	if err := w.file.Truncate(w.size); err != nil {
		return err
	}
	return w.file.Sync()
}

// isFragment reports whether line can be the beginning of an audit line.
func isFragment(line []byte) bool {
	const prefix = `{"Seq":`
	return bytes.HasPrefix(line, []byte(prefix)) || strings.HasPrefix(prefix, string(line))
}

// readFrom calls f with the lines from number seq on and their text, as far as the log still has
// them. It starts again if the log's files change in the meantime.
func (l *Log) readFrom(seq uint64, f func(line Line, text []byte) error) error {
	files, err := Files(l.cfg.Path)
	for err == nil {
		if err = scanFiles(files, seq, f); err != nil {
			return err
		}
		listed := files
		if files, err = Files(l.cfg.Path); slices.Equal(files, listed) {
			break
		}
	}
	return err
}

// Search calls f with the log's lines that have text in them, as far as the log still has them.
func Search(l *Log, text string, f func(Line) error) error {
	return l.readFrom(1, func(line Line, content []byte) error {
		if !bytes.Contains(content, []byte(text)) {
			return nil
		}
		return f(line)
	})
}

// scanFiles calls f with the lines of files from number seq on. It skips the void lines at the end
// of a file, whose numbers occur again in the next file.
func scanFiles(files []string, seq uint64, f func(line Line, text []byte) error) error {
	for i, path := range files {
		limit := uint64(math.MaxUint64)
		if i+1 < len(files) {
			limit = firstSeq(files[i+1])
		}
		if limit <= seq {
			continue // all lines of this file are older
		}
		if err := scanFile(path, seq, limit, f); err != nil {
			return err
		}
	}
	return nil
}

func scanFile(path string, seq, limit uint64, f func(line Line, text []byte) error) error {
	file, err := openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the file was rotated, compressed or deleted after it was listed
	}
	if err != nil {
		return err
	}
	defer file.Close()
	s := scanLines(file)
	for s.Scan() {
		if n, ok := seqOf(s.Bytes()); ok && (n < seq || n >= limit) {
			continue // parsing is skipped to save time: there may be 100 MiB of such lines
		}
		if line, ok := parseLine(s.Bytes()); ok && line.Seq >= seq && line.Seq < limit {
			if err := f(line, s.Bytes()); err != nil {
				return err
			}
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("reading %q: %w", path, err)
	}
	return nil
}

// seqOf returns the number of a line without parsing the rest.
func seqOf(line []byte) (seq uint64, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"Seq":`))
	digits, _, found := bytes.Cut(rest, []byte{','})
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	return seq, ok && found && err == nil
}

// Missing returns those of the RequestIds that have no line of a successful request from line
// number seq on.
func (l *Log) Missing(seq uint64, requestIds []string) ([]string, error) {
	missing := make(map[string]bool, len(requestIds))
	for _, id := range requestIds {
		missing[id] = true
	}
	err := l.readFrom(seq, func(line Line, _ []byte) error {
		if line.Entry != nil && line.Entry.Code == "" { // the line of a refusal does not record a change
			delete(missing, line.Entry.RequestId)
		}
		return nil
	})
	return slices.DeleteFunc(slices.Clone(requestIds), func(id string) bool { return !missing[id] }), err
}

// acceptLoss continues after the last certain line: the log's last line if the log has the expected
// one, otherwise the expected one. In the latter case, or if the file is broken, it renames the
// file at the log's path to PATH.lost-TIME.
func (w *writer) acceptLoss(t tail, reason error) error {
	name := w.log.cfg.Path + ".lost-" + time.Now().UTC().Format("20060102T150405.000000000")
	switch {
	case t.hasExpect && !w.log.cfg.Ended && t.path == w.log.cfg.Path:
		name = rotatedName(w.log.cfg.Path, t.first.Seq)
	case w.log.cfg.Expect.Seq > 0:
		t.head = w.log.cfg.Expect
	}
	if _, err := os.Lstat(w.log.cfg.Path); err == nil {
		if err := os.Rename(w.log.cfg.Path, name); err != nil {
			return err
		}
	}
	w.head, w.lastTime = t.head, t.time
	if err := w.begin(); err != nil {
		return err
	}
	return w.writeEvent(Event{Kind: KindLost, Lost: "accepted by the operator at start: " + reason.Error()})
}

// writeEvent writes and flushes an event.
func (w *writer) writeEvent(e Event) error {
	e.Time = time.Now().UTC()
	entry, err := encodeEvent(e)
	if err != nil {
		return err
	}
	line := w.head.appendNext(nil, entry)
	if err := w.append(append(slices.Clone(line), '\n')); err != nil {
		return err
	}
	w.head = Head{w.head.Seq + 1, hashOf(line)}
	return nil
}
