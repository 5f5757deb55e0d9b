package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// An Entry is what one line says: of one request, or of the log itself.
type Entry struct {
	Time time.Time

	// Of a request:
	RequestId    string        `json:",omitempty"`
	Door         string        `json:",omitempty"` // rpc, admin, local
	Protocol     string        `json:",omitempty"` // how the request was signed
	Source       string        `json:",omitempty"` // the connection's other end
	AccessKeyId  string        `json:",omitempty"` // as claimed; see Principal
	Principal    string        `json:",omitempty"` // verified; empty if that failed
	Action       string        `json:",omitempty"`
	Quota        string        `json:",omitempty"` // what the request was charged to
	KeyId        string        `json:",omitempty"`
	KeyVersionId string        `json:",omitempty"`
	Subject      string        `json:",omitempty"` // the user, credential, policy, access point or network rule that is spoken of
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

	// Of the log:
	Suppressed  int         `json:",omitempty"` // so many refusals of strangers have no line of their own; the last one was Source's
	Checkpoint  *Checkpoint `json:",omitempty"` // all lines up to the one it names are vouched for
	Recovered   bool        `json:",omitempty"` // the line before was torn by a crash
	Resumed     string      `json:",omitempty"` // why nothing could be written before this line
	Abandoned   string      `json:",omitempty"` // why the file before ends, for this log, with the line that this one follows
	Unwitnessed uint64      `json:",omitempty"` // so many lines before this one were found at a start after a crash, behind the last that was kept
	Lost        string      `json:",omitempty"` // by whose word the log goes on without the lines before this one
	Restored    *Checkpoint `json:",omitempty"` // the records are from here on those of a backup, which was made when this was the log's head
}

// A Line is an Entry at its place in the chain.
type Line struct {
	Seq  uint64 // from 1 on
	Prev string // SHA-256 in hexadecimal of the line before
	Entry
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

// format makes the line of an entry in JSON that follows head, without newline.
func (head Head) format(entry []byte) []byte {
	return fmt.Appendf(nil, `{"Seq":%d,"Prev":"%s",%s`, head.Seq+1, head.Hash, entry[1:])
}

func parseLine(text []byte) (line Line, ok bool) {
	err := json.Unmarshal(text, &line)
	return line, err == nil && line.Seq > 0
}

// maxLine bounds a line's length in bytes; entries are far shorter.
const maxLine = 1 << 20

// scanLines gives the lines of r as they are: what bufio.ScanLines does, but
// that a carriage return is part of a line like every other byte.
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

// Read calls f with every line of r, until there is none or f returns an error.
// Lines that are torn are passed over; nothing is verified.
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
