package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rotated is what a rotated file's name ends with.
var rotated = regexp.MustCompile(`^\.[0-9]{16}(\.[0-9]{8}T[0-9.]+)?$`)

// Files gives the files of the log at path that are there, the oldest first, path
// itself last.
func Files(path string) ([]string, error) {
	all, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var files []string
	current := false
	for _, f := range all {
		rest, ours := strings.CutPrefix(f.Name(), filepath.Base(path))
		switch {
		case ours && rest == "":
			current = true
		case ours && rotated.MatchString(rest):
			files = append(files, path+rest)
		}
	}
	slices.Sort(files) // by the number of their first line
	if current {
		files = append(files, path)
	}
	return files, nil
}

// resume finds where the log ends, and mends what a crash left there.
func (w *writer) resume() error {
	if err := w.findFile(); err != nil {
		return err
	}
	err := w.findEnd()
	if err == nil {
		err = w.meets(w.log.Expect)
	}
	if err != nil && w.log.AcceptLoss && w.log.Expect.Seq > 0 {
		return w.acceptLoss(err)
	}
	if err != nil {
		return errors.Join(err, w.close())
	}
	return nil
}

// findFile opens the file that is written. One that was just put aside when the
// process ended is taken back: the next was not begun.
func (w *writer) findFile() error {
	files, err := Files(w.log.Path)
	if err != nil {
		return err
	}
	if n := len(files); n > 0 && files[n-1] != w.log.Path {
		if err := os.Rename(files[n-1], w.log.Path); err != nil {
			return err
		}
	}
	w.file, err = w.log.open(w.log.Path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(w.log.Path))
}

func (w *writer) findEnd() error {
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	w.size, w.head, w.first = info.Size(), beginning, 1
	if w.size == 0 {
		return w.takeBack()
	}
	first, err := firstLine(w.file)
	if err != nil {
		return err
	}
	w.first = first.Seq
	last, before, torn, err := lastLines(w.file, w.size)
	if err != nil {
		return err
	}
	if at, ok := parseLine(last); ok {
		w.head = Head{at.Seq, hashOf(last)}
		if torn { // by its newline only
			return w.append([]byte{'\n'})
		}
		return nil
	}
	return w.mend(last, before, torn)
}

// takeBack goes on with the file before an empty one, if there is one.
func (w *writer) takeBack() error {
	files, err := Files(w.log.Path)
	if err != nil || len(files) < 2 {
		return err
	}
	if err := errors.Join(w.close(), os.Rename(files[len(files)-2], w.log.Path)); err != nil {
		return err
	}
	if err := w.findFile(); err != nil {
		return err
	}
	return w.findEnd()
}

// previous gives the last line of the file before, 0 if there is none.
func (w *writer) previous() (uint64, error) {
	files, err := Files(w.log.Path)
	if err != nil || len(files) < 2 {
		return 0, err
	}
	before := files[len(files)-2]
	f, err := os.Open(before)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	last, _, _, err := lastLines(f, info.Size())
	if err != nil {
		return 0, err
	}
	line, ok := parseLine(last)
	if !ok {
		return 0, fmt.Errorf("the last line of %s is no audit line", before)
	}
	return line.Seq, nil
}

// mend goes on behind a last line that is a fragment. The one before it is
// whole, or there is none, or it is a fragment too, whose recovery was cut off:
// then there is only what a cut-off recovery wrote behind it, which says
// nothing.
func (w *writer) mend(last, before []byte, torn bool) error {
	if !isFragment(last) {
		return errors.New("its last line is neither an audit line nor the beginning of one: is it another file?")
	}
	at, whole := parseLine(before)
	if before != nil && !whole {
		if !isFragment(before) {
			return errors.New("the line before its torn last line is no audit line")
		}
		w.size -= int64(len(last))
		if !torn {
			w.size--
		}
		if err := w.file.Truncate(w.size); err != nil {
			return err
		}
		return w.findEnd()
	}
	follows := at.Seq
	if before == nil { // the file has a fragment only
		var err error
		if follows, err = w.previous(); err != nil {
			return err
		}
	}
	return w.recover(last, follows, torn)
}

// recover adds the line that says that the one before it is torn, ending that
// one where need be. Both are written at once, or taken back: recovery that is
// itself cut off can be done again.
func (w *writer) recover(fragment []byte, before uint64, torn bool) error {
	entry, err := json.Marshal(Entry{Time: time.Now().UTC(), Recovered: true})
	if err != nil {
		return err
	}
	line := Head{before, hashOf(fragment)}.format(entry)
	text := append(slices.Clone(line), '\n')
	if torn {
		text = append([]byte{'\n'}, text...)
	}
	if err := w.append(text); err != nil {
		return err
	}
	w.head = Head{before + 1, hashOf(line)}
	return nil
}

// isFragment reports whether line begins as a line of ours does, as far as it
// goes.
func isFragment(line []byte) bool {
	const begin = `{"Seq":`
	return bytes.HasPrefix(line, []byte(begin)) || strings.HasPrefix(begin, string(line))
}

// firstLine gives the first line of a file, or the zero Line if that is a
// fragment.
func firstLine(r io.ReaderAt) (Line, error) {
	s := scanLines(io.NewSectionReader(r, 0, maxLine))
	if !s.Scan() {
		return Line{Seq: 1}, s.Err()
	}
	line, _ := parseLine(s.Bytes())
	line.Seq = max(line.Seq, 1)
	return line, nil
}

// lastLines gives the last line of a file of some size, without newline, and
// the line before it, nil if there is none. The last one is torn if it does not
// end with a newline.
func lastLines(r io.ReaderAt, size int64) (last, before []byte, torn bool, err error) {
	var tail []byte
	for begin := size; begin > 0 && bytes.Count(tail, []byte{'\n'}) < 3; {
		n := min(begin, 64<<10)
		begin -= n
		chunk := make([]byte, n)
		if _, err := r.ReadAt(chunk, begin); err != nil {
			return nil, nil, false, err
		}
		tail = append(chunk, tail...)
	}
	if len(tail) == 0 {
		return nil, nil, false, nil
	}
	torn = tail[len(tail)-1] != '\n'
	lines := bytes.Split(bytes.TrimSuffix(tail, []byte{'\n'}), []byte{'\n'})
	last = lines[len(lines)-1]
	if len(lines) > 1 {
		before = lines[len(lines)-2]
	}
	return last, before, torn, nil
}

// errFound ends a search.
var errFound = errors.New("found")

// meets checks that the log has a line that it had.
func (w *writer) meets(expect Head) error {
	if expect.Seq == 0 {
		return nil
	}
	if w.head.Seq < expect.Seq {
		return fmt.Errorf("it ends with line %d, and it had line %d: its end is missing. Put the file back that is missing; if it is gone for good, start once with --accept-audit-loss", w.head.Seq, expect.Seq)
	}
	err := w.log.since(expect.Seq, func(line Line, text []byte) error {
		if line.Seq == expect.Seq && hashOf(text) == expect.Hash {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return nil
	}
	return errors.Join(err, fmt.Errorf("line %d is not the one that it had: the log was changed. Put the right files back; if they are gone for good, start once with --accept-audit-loss", expect.Seq))
}

// since calls f with the lines from one on, and their text. It begins again when
// the log was rotated meanwhile.
func (l *Log) since(seq uint64, f func(line Line, text []byte) error) error {
	files, err := Files(l.Path)
	for err == nil {
		if err = scanFiles(files, seq, f); err != nil {
			return err
		}
		before := files
		if files, err = Files(l.Path); slices.Equal(files, before) {
			break
		}
	}
	return err
}

func scanFiles(files []string, seq uint64, f func(line Line, text []byte) error) error {
	for i, path := range files {
		if i+1 < len(files) && beginsBefore(files[i+1], seq) {
			continue // all of it is older
		}
		if err := scanFile(path, seq, f); err != nil {
			return err
		}
	}
	return nil
}

// beginsBefore reports whether a file's first line is not behind a line.
func beginsBefore(path string, seq uint64) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	first, err := firstLine(f)
	info, statErr := f.Stat()
	return err == nil && statErr == nil && info.Size() > 0 && first.Seq <= seq
}

func scanFile(path string, seq uint64, f func(line Line, text []byte) error) error {
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // rotated away meanwhile
	}
	if err != nil {
		return err
	}
	defer in.Close()
	s := scanLines(in)
	for s.Scan() {
		if n, ok := seqOf(s.Bytes()); ok && n < seq {
			continue // not worth parsing: there may be 100 MiB of them
		}
		if line, ok := parseLine(s.Bytes()); ok && line.Seq >= seq {
			if err := f(line, s.Bytes()); err != nil {
				return err
			}
		}
	}
	return s.Err()
}

// seqOf reads the number of a line.
func seqOf(line []byte) (seq uint64, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"Seq":`))
	digits, _, found := bytes.Cut(rest, []byte{','})
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	return seq, ok && found && err == nil
}

// Missing gives those of some RequestIds that have no line from one on.
func (l *Log) Missing(seq uint64, requestIds []string) ([]string, error) {
	missing := make(map[string]bool, len(requestIds))
	for _, id := range requestIds {
		missing[id] = true
	}
	err := l.since(seq, func(line Line, _ []byte) error {
		delete(missing, line.RequestId)
		return nil
	})
	return slices.DeleteFunc(slices.Clone(requestIds), func(id string) bool { return !missing[id] }), err
}

// acceptLoss puts aside what is there and goes on behind the line that was kept.
func (w *writer) acceptLoss(why error) error {
	if w.file != nil {
		if err := os.Rename(w.log.Path, w.log.Path+".lost-"+time.Now().UTC().Format("20060102T150405.000000000")); err != nil {
			return err
		}
		if err := w.close(); err != nil {
			return err
		}
	}
	w.head = w.log.Expect
	if err := w.begin(); err != nil {
		return err
	}
	entry, err := json.Marshal(Entry{Time: time.Now().UTC(), Lost: "accepted by the operator at start: " + why.Error()})
	if err != nil {
		return err
	}
	line := w.head.format(entry)
	if err := w.append(append(slices.Clone(line), '\n')); err != nil {
		return err
	}
	w.head = Head{w.head.Seq + 1, hashOf(line)}
	return nil
}
