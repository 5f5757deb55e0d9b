package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// An Entry is a line about one request.
type Entry struct {
	Time         time.Time
	RequestId    string        `json:",omitempty"`
	Door         string        `json:",omitempty"` // rpc, native, admin, local
	Protocol     string        `json:",omitempty"` // how the request was signed
	Source       string        `json:",omitempty"` // the connection's other end
	AccessKeyId  string        `json:",omitempty"` // as claimed; see Principal
	Principal    string        `json:",omitempty"` // verified; empty if that failed
	Action       string        `json:",omitempty"`
	Quota        string        `json:",omitempty"` // what the request was charged to
	KeyId        string        `json:",omitempty"`
	KeyVersionId string        `json:",omitempty"`
	Subject      string        `json:",omitempty"` // the user, credential, policy, access point or network rule concerned
	Alias        string        `json:",omitempty"`
	KeySpec      string        `json:",omitempty"`
	Algorithm    string        `json:",omitempty"`
	Digest       []byte        `json:",omitempty"` // Base64
	Valid        *bool         `json:",omitempty"` // what AsymmetricVerify found
	DryRun       bool          `json:",omitempty"`
	Status       int           `json:",omitempty"` // HTTP status
	Code         string        `json:",omitempty"` // of the API's error; empty for success
	Reason       string        `json:",omitempty"` // what the client was not told
	Duration     time.Duration `json:",omitempty"` // nanoseconds, up to this line
	Late         bool          `json:",omitempty"` // a change whose line could not be written when it was made
}

// A Line is an Entry or an Event at its place in the chain. One of the two is
// set.
type Line struct {
	Seq   uint64 // from 1 on
	Prev  string // SHA-256 in hexadecimal of the line before
	Entry *Entry // of a request
	Event *Event // of the log itself
}

// Time returns when the line was made.
func (l Line) Time() time.Time {
	switch {
	case l.Event != nil:
		return l.Event.Time
	case l.Entry != nil:
		return l.Entry.Time
	}
	return time.Time{}
}

// hasKind reports whether the line is an event of a kind.
func (l Line) hasKind(k Kind) bool { return l.Event != nil && l.Event.Kind == k }

// MarshalJSON writes the line as it is in the log.
func (l Line) MarshalJSON() ([]byte, error) {
	var content any = cmp.Or(l.Entry, new(Entry))
	if l.Event != nil {
		event := *l.Event
		if event.inferred {
			event.Kind = ""
		}
		content = event
	}
	text, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	prev, err := json.Marshal(l.Prev) // of a line that was read, it can be anything
	return fmt.Appendf(nil, `{"Seq":%d,"Prev":%s,%s`, l.Seq, prev, text[1:]), err
}

// UnmarshalJSON reads a line, also one that an earlier version wrote.
func (l *Line) UnmarshalJSON(text []byte) error {
	// Time and Source belong to whichever of the two the line is. They hide the
	// fields of the same name.
	var read struct {
		Seq  uint64
		Prev string
		Time time.Time
		Entry
		Event
		Source string
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return err
	}
	*l = Line{Seq: read.Seq, Prev: read.Prev}
	event := read.Event
	event.Time, event.Source = read.Time, read.Source
	if event.Kind == "" {
		event.Kind, event.inferred = event.kindOfFields(), true
	}
	if event.Kind != "" {
		l.Event = &event
		return nil
	}
	entry := read.Entry
	entry.Time, entry.Source = read.Time, read.Source
	l.Entry = &entry
	return nil
}

// A Head names a line, and by its hash all lines before it.
type Head struct {
	Seq  uint64
	Hash string // SHA-256 in hexadecimal of the line, without its newline
}

// beginning is the head of a log without lines.
var beginning = Head{0, strings.Repeat("0", 2*sha256.Size)}

func hashOf(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// format returns the line that follows head, without its newline. The entry is JSON.
func (head Head) format(entry []byte) []byte {
	return fmt.Appendf(nil, `{"Seq":%d,"Prev":"%s",%s`, head.Seq+1, head.Hash, entry[1:])
}

func parseLine(text []byte) (line Line, ok bool) {
	err := line.UnmarshalJSON(text) // json.Unmarshal would read the text twice
	return line, err == nil && line.Seq > 0
}

// maxLine bounds a line's length in bytes; entries are far shorter.
const maxLine = 1 << 20

// scanLines returns the lines of r unchanged. Unlike with bufio.ScanLines, a
// carriage return is part of a line, like every other byte.
func scanLines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	s.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			return i + 1, data[:i], nil
		}
		if atEOF && len(data) > 0 {
			return len(data), data, nil
		}
		return 0, nil, nil
	})
	return s
}

// Read calls f with every line of r until f returns an error. It skips torn lines
// and verifies nothing.
func Read(r io.Reader, f func(Line) error) error {
	s := scanLines(r)
	for s.Scan() {
		if line, ok := parseLine(s.Bytes()); ok {
			if err := f(line); err != nil {
				return err
			}
		}
	}
	return s.Err()
}
