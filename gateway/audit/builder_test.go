package audit_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A builder writes the files of a log, line by line, with times that the test chooses.
type builder struct {
	t    *testing.T
	path string
	head audit.Head // the last line
	time time.Time  // of the next line
	text strings.Builder
	from uint64 // the first line of text
}

// build returns a builder of a log that has no file yet.
func build(t *testing.T) *builder {
	return &builder{t: t, path: filepath.Join(t.TempDir(), "audit.log"), head: audit.Head{Hash: strings.Repeat("0", 64)},
		time: time.Now().UTC(), from: 1}
}

func (b *builder) add(line audit.Line) {
	b.t.Helper()
	line.Seq, line.Prev = b.head.Seq+1, b.head.Hash
	text, err := json.Marshal(line)
	if err != nil {
		b.t.Fatal(err)
	}
	b.head = audit.Head{Seq: line.Seq, Hash: hashOf(string(text))}
	b.text.Write(append(text, '\n'))
}

// requests adds lines of n requests.
func (b *builder) requests(n int) *builder {
	b.t.Helper()
	for range n {
		b.add(audit.Line{Entry: &audit.Entry{Time: b.time, RequestId: fmt.Sprintf("r-%d", b.head.Seq+1), Action: "AsymmetricSign"}})
	}
	return b
}

func (b *builder) event(e audit.Event) *builder {
	b.t.Helper()
	e.Time = b.time
	b.add(audit.Line{Event: &e})
	return b
}

// checkpoint adds a checkpoint of the last line, signed with key.
func (b *builder) checkpoint() *builder { return b.checkpointBy(key) }

func (b *builder) checkpointBy(key *ecdsa.PrivateKey) *builder {
	b.t.Helper()
	c := audit.Checkpoint{Head: b.head, Time: b.time}
	signature, err := ecdsa.SignASN1(rand.Reader, key, c.Digest())
	if err != nil {
		b.t.Fatal(err)
	}
	c.Signature = signature
	return b.event(audit.Event{Kind: audit.KindCheckpoint, Checkpoint: &c})
}

// deleted adds the event that deletes the file with a name and a last line.
func (b *builder) deleted(name string, end audit.Head) *builder {
	b.t.Helper()
	return b.event(audit.Event{Kind: audit.KindDeleted, Deleted: &audit.Deletion{Head: end, File: filepath.Base(name)}})
}

// recovered adds a torn line and the event that follows it.
func (b *builder) recovered() *builder {
	b.t.Helper()
	torn := fmt.Sprintf(`{"Seq":%d,"Pre`, b.head.Seq+1)
	b.text.WriteString(torn + "\n")
	b.head.Hash = hashOf(torn)
	return b.event(audit.Event{Kind: audit.KindRecovered, Recovered: true})
}

// rotate writes the lines since the last rotation to a rotated file, and returns its name.
func (b *builder) rotate() string {
	b.t.Helper()
	return b.write(fmt.Sprintf("%s.%016d", b.path, b.from))
}

// end writes the lines since the last rotation to the current file.
func (b *builder) end() {
	b.t.Helper()
	b.write(b.path)
}

func (b *builder) write(name string) string {
	b.t.Helper()
	if err := os.WriteFile(name, []byte(b.text.String()), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.text.Reset()
	b.from = b.head.Seq + 1
	return name
}

// compress compresses a file with gzip, as one member for each of its halves, and returns the new
// name.
func compress(t *testing.T, name string) string {
	t.Helper()
	content := read(t, name)
	half := len(content) / 2
	compressed := append(gzipped(t, content[:half]), gzipped(t, content[half:])...)
	if err := os.WriteFile(name+".gz", compressed, 0o600); err != nil {
		t.Fatal(err)
	}
	remove(t, name)
	return name + ".gz"
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func isThere(t *testing.T, name string) bool {
	t.Helper()
	_, err := os.Stat(name)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}
