package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"
	"time"
)

// An Entry is a line about one request.
type Entry struct {
	Time                time.Time
	RequestId           string        `json:",omitempty"`
	Door                string        `json:",omitempty"` // rpc, native, admin, local
	Protocol            string        `json:",omitempty"` // the request's signature protocol
	Source              string        `json:",omitempty"` // the peer's address
	AccessKeyId         string        `json:",omitempty"` // as claimed, not verified; see Principal
	Principal           string        `json:",omitempty"` // verified; empty if the verification failed
	LoginUid            string        `json:",omitempty"` // at the local doors: the uid that the person logged in with, before sudo
	OnBehalfOf          string        `json:",omitempty"` // at the local doors: the user whose policies were asked
	AsAdministrator     bool          `json:",omitempty"` // at the local doors: a signature under no policy of a user was asked for
	Reference           string        `json:",omitempty"` // at the local doors: what the person says that the request belongs to
	Action              string        `json:",omitempty"`
	Quota               string        `json:",omitempty"` // the quota that the request used
	KeyId               string        `json:",omitempty"`
	KeyVersionId        string        `json:",omitempty"`
	Subject             string        `json:",omitempty"` // the user, credential, policy, access point or network rule
	Alias               string        `json:",omitempty"`
	KeySpec             string        `json:",omitempty"`
	Algorithm           string        `json:",omitempty"`
	Digest              []byte        `json:",omitempty"` // Base64
	Valid               *bool         `json:",omitempty"` // the result of AsymmetricVerify
	DryRun              bool          `json:",omitempty"`
	Intended            bool          `json:",omitempty"` // the line says what the gateway was about to do; no line confirms the release
	Status              int           `json:",omitempty"` // HTTP status; 0 if Intended
	Code                string        `json:",omitempty"` // the API's error code; empty for success
	Reason              string        `json:",omitempty"` // details that the client did not receive
	DurationNanoseconds time.Duration `json:",omitempty"` // from the request to this line
	Change              uint64        `json:",omitempty"` // of a successful change: its number in the database
	Late                bool          `json:",omitempty"` // the line of a change that the log could not write when it happened
	NotReleased         uint64        `json:",omitempty"` // the number of the line whose result was not released, for this line's reason
	ClosedTo            uint64        `json:",omitempty"` // of an Intended line: all Intended lines up to this number are closed
}

// A Line is a line of the log. Either Entry or Event is set.
type Line struct {
	Seq   uint64 // the line's number, counted from 1
	Prev  string // SHA-256 in hexadecimal of the previous line
	Entry *Entry // if the line is about a request
	Event *Event // if the line is about the log itself
}

// Time returns the time of the line.
func (l Line) Time() time.Time {
	switch {
	case l.Event != nil:
		return l.Event.Time
	case l.Entry != nil:
		return l.Entry.Time
	}
	return time.Time{}
}

// hasKind reports whether the line is an event of kind k.
func (l Line) hasKind(k Kind) bool { return l.Event != nil && l.Event.Kind == k }

// MarshalJSON returns the line as it is in the log. In a line of an earlier version, it escapes
// characters that are not printable, which that version did not.
func (l Line) MarshalJSON() ([]byte, error) {
	var content []byte
	var err error
	if l.Event != nil {
		event := *l.Event
		if event.inferred {
			event.Kind = ""
		}
		content, err = encodeEvent(event)
	} else {
		content, err = appendEntry(nil, cmp.Or(l.Entry, new(Entry)))
	}
	if err != nil {
		return nil, err
	}
	return appendLine(nil, l.Seq, l.Prev, content), nil
}

// UnmarshalJSON reads a line, including one written by an earlier version.
func (l *Line) UnmarshalJSON(text []byte) error {
	// These fields belong to either the Entry or the Event. Here they hide the embedded fields of
	// the same name.
	var read struct {
		Seq  uint64
		Prev string
		Time time.Time
		Entry
		Event
		Source, Principal, Code string
		ClosedTo                uint64
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return err
	}
	*l = Line{Seq: read.Seq, Prev: read.Prev}
	event := read.Event
	event.Time, event.Source, event.Principal, event.Code = read.Time, read.Source, read.Principal, read.Code
	event.ClosedTo = read.ClosedTo
	if event.Kind == "" {
		event.Kind, event.inferred = event.kindOfFields(), true
	}
	if event.Kind != "" {
		l.Event = &event
		return nil
	}
	entry := read.Entry
	entry.Time, entry.Source, entry.Principal, entry.Code = read.Time, read.Source, read.Principal, read.Code
	entry.ClosedTo = read.ClosedTo
	l.Entry = &entry
	return nil
}

// A Head identifies a line and, by its hash, all lines before it.
type Head struct {
	Seq  uint64
	Hash string // SHA-256 in hexadecimal of the line, without its newline
}

// emptyHead is the head of a log without lines.
var emptyHead = Head{0, strings.Repeat("0", 2*sha256.Size)}

func hashOf(line []byte) string {
	sum := sha256.Sum256(line)
	var text [2 * sha256.Size]byte // on the stack: hex.EncodeToString allocates it
	hex.Encode(text[:], sum[:])
	return string(text[:])
}

// appendNext appends the line that follows h, without its newline. The content is the JSON of an
// entry or an event.
func (h Head) appendNext(b, content []byte) []byte { return appendLine(b, h.Seq+1, h.Hash, content) }

func parseLine(text []byte) (line Line, ok bool) {
	if line, ok := decodeEntryLine(text); ok {
		return line, true
	}
	err := line.UnmarshalJSON(text) // json.Unmarshal would parse the text twice
	return line, err == nil && line.Seq > 0
}

// maxLine is the maximum length of a line in bytes. Entries are far shorter.
const maxLine = 1 << 20

// scanLines returns a scanner for the lines of r. Unlike bufio.ScanLines, it keeps a carriage
// return as part of the line.
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

// Read calls f with every line of r until f returns an error. It skips torn lines and verifies
// nothing.
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
