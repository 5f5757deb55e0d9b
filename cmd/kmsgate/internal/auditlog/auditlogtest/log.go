// Package auditlogtest writes audit logs for tests in the form that a gateway writes them. It
// needs no gateway: the test chooses every line, time and rotation.
package auditlogtest

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// Begin is the time of a log's first line. Each further line is a minute later.
var Begin = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

// A Log is an audit log in a new directory.
type Log struct {
	Path string
	Head audit.Head // of the last line

	t   testing.TB
	key *ecdsa.PrivateKey
}

// New returns a log that has no file yet.
func New(t testing.TB) *Log {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Log{Path: filepath.Join(t.TempDir(), "audit.log"), Head: audit.Head{Hash: strings.Repeat("0", 64)}, t: t, key: key}
}

// NewRotated returns a log of the lines 1 to 15 in three files, the names of the two rotated ones, and
// their last lines.
func NewRotated(t testing.TB) (log *Log, names []string, ends []audit.Head) {
	t.Helper()
	log = New(t)
	for _, first := range []int{1, 6} {
		log.Requests(4)
		log.Checkpoint()
		names, ends = append(names, log.Rotate(first)), append(ends, log.Head)
	}
	log.Requests(4)
	log.Checkpoint()
	return log, names, ends
}

// Write appends text to the log's file.
func (l *Log) Write(text string) {
	l.t.Helper()
	f, err := os.OpenFile(l.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		l.t.Fatal(err)
	}
}

// Append appends a line for each request.
func (l *Log) Append(entries ...audit.Entry) {
	l.t.Helper()
	for _, e := range entries {
		e.Time = l.time()
		l.appendLine(audit.Line{Entry: &e})
	}
}

// Events appends a line for each event of the log itself.
func (l *Log) Events(events ...audit.Event) {
	l.t.Helper()
	for _, e := range events {
		e.Time = l.time()
		l.appendLine(audit.Line{Event: &e})
	}
}

func (l *Log) time() time.Time { return Begin.Add(time.Duration(l.Head.Seq) * time.Minute) }

func (l *Log) appendLine(line audit.Line) {
	l.t.Helper()
	line.Seq, line.Prev = l.Head.Seq+1, l.Head.Hash
	text, err := json.Marshal(line)
	if err != nil {
		l.t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	l.Head = audit.Head{Seq: line.Seq, Hash: hex.EncodeToString(sum[:])}
	l.Write(string(text) + "\n")
}

// Requests appends lines of n requests.
func (l *Log) Requests(n int) {
	l.t.Helper()
	for range n {
		l.Append(audit.Entry{
			RequestId: fmt.Sprintf("r-%d", l.Head.Seq+1), Principal: "alice", Action: "AsymmetricSign",
			KeyId: "k-1", Source: "192.0.2.7",
		})
	}
}

// Sign returns the log's signed head.
func (l *Log) Sign() audit.Checkpoint {
	l.t.Helper()
	c := audit.Checkpoint{Head: l.Head, Time: Begin.Add(time.Hour)}
	signature, err := ecdsa.SignASN1(rand.Reader, l.key, c.Digest())
	if err != nil {
		l.t.Fatal(err)
	}
	c.Signature = signature
	return c
}

// Checkpoint appends a checkpoint of the last line.
func (l *Log) Checkpoint() {
	l.t.Helper()
	c := l.Sign()
	l.Events(audit.Event{Kind: audit.KindCheckpoint, Checkpoint: &c})
}

// Rotate renames the log's file to the name of a rotated file whose first line has the number
// first. It returns the new name.
func (l *Log) Rotate(first int) string {
	l.t.Helper()
	name := fmt.Sprintf("%s.%016d", l.Path, first)
	if err := os.Rename(l.Path, name); err != nil {
		l.t.Fatal(err)
	}
	return name
}

// Delete appends the event of retention that deletes a rotated file, with a checkpoint that covers
// it, and removes the file. end is the last line of the file.
func (l *Log) Delete(name string, end audit.Head) {
	l.t.Helper()
	l.Events(audit.Event{Kind: audit.KindDeleted, Deleted: &audit.Deletion{Head: end, File: filepath.Base(name)}})
	l.Checkpoint()
	if err := os.Remove(name); err != nil {
		l.t.Fatal(err)
	}
}

// Compress compresses a rotated file with gzip, as two members, and returns its new name.
func (l *Log) Compress(name string) string {
	l.t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		l.t.Fatal(err)
	}
	var compressed bytes.Buffer
	for _, part := range [][]byte{content[:len(content)/2], content[len(content)/2:]} {
		w := gzip.NewWriter(&compressed)
		if _, err := w.Write(part); err != nil {
			l.t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := os.Remove(name); err != nil {
		l.t.Fatal(err)
	}
	return l.File(filepath.Base(name)+".gz", compressed.String())
}

// Key returns the public key that verifies the log's checkpoints.
func (l *Log) Key() audit.PublicKey { return &l.key.PublicKey }

// KeyFile writes the log's public key to a file, and returns its name.
func (l *Log) KeyFile() string {
	l.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&l.key.PublicKey)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.File("audit.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
}

// File writes a file into the log's directory, and returns its path.
func (l *Log) File(name, text string) string {
	l.t.Helper()
	path := filepath.Join(filepath.Dir(l.Path), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// NewEvent returns an event of a kind in the form that a gateway writes it. If events of this
// kind name a line, it is that of head.
func NewEvent(kind audit.Kind, head audit.Checkpoint) audit.Event {
	e := audit.Event{Kind: kind}
	switch kind {
	case audit.KindCheckpoint:
		e.Checkpoint = &head
	case audit.KindSuppressed:
		e.Suppressed, e.Source = 7, "192.0.2.9"
	case audit.KindRecovered:
		e.Recovered = true
	case audit.KindAbandoned:
		e.Abandoned, e.Resumed = "flushing it failed", "flushing it failed"
	case audit.KindResumed:
		e.Resumed = "no space left on device"
	case audit.KindUnwitnessed:
		e.Unwitnessed = 3
	case audit.KindLost:
		e.Lost = "accepted by the operator at start"
	case audit.KindRestored:
		e.Restored = &head
	case audit.KindUnanswered:
		e.Unanswered = []uint64{1, 2}
	case audit.KindInDoubt:
		e.InDoubt = []uint64{1, 2}
	case audit.KindDeleted:
		e.Deleted = &audit.Deletion{Head: head.Head, File: "audit.log.0000000000000001"}
	}
	return e
}

// HostileLines returns a request's line and a line about the log itself, with text in every
// field that can hold text.
func HostileLines(text string) []audit.Line {
	entry, event := new(audit.Entry), new(audit.Event)
	for _, v := range []reflect.Value{reflect.ValueOf(entry).Elem(), reflect.ValueOf(event).Elem()} {
		for _, f := range reflect.VisibleFields(v.Type()) {
			if !f.IsExported() {
				continue
			}
			switch field := v.FieldByIndex(f.Index); field.Kind() {
			case reflect.String:
				field.SetString(text)
			case reflect.Int, reflect.Int64:
				field.SetInt(7)
			case reflect.Uint64:
				field.SetUint(7)
			case reflect.Bool:
				field.SetBool(true)
			}
		}
	}
	entry.Time, entry.Digest, entry.Valid = Begin, []byte(text), new(bool)
	event.Time = Begin
	event.Checkpoint = &audit.Checkpoint{Head: audit.Head{Seq: 1, Hash: text}, Time: Begin}
	event.Restored = event.Checkpoint
	event.Deleted = &audit.Deletion{Head: event.Checkpoint.Head, File: text}
	return []audit.Line{{Seq: 1, Prev: text, Entry: entry}, {Seq: 2, Prev: text, Event: event}}
}
