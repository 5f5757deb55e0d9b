package main

import (
	"bytes"
	stdcmp "cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A testLog writes a log as a gateway would, but without one.
type testLog struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	head audit.Head
	path string
}

// begin is when testLogs begin. Their lines are a minute apart.
var begin = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

func newTestLog(t *testing.T) *testLog {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &testLog{t: t, key: key, head: audit.Head{Hash: strings.Repeat("0", 64)}, path: filepath.Join(t.TempDir(), "audit.log")}
}

func (l *testLog) write(text []byte) {
	l.t.Helper()
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		l.t.Fatal(err)
	}
}

func (l *testLog) append(entries ...audit.Entry) {
	l.t.Helper()
	for _, e := range entries {
		e.Time = l.time()
		l.line(audit.Line{Entry: &e})
	}
}

// events appends lines of the log itself.
func (l *testLog) events(events ...audit.Event) {
	l.t.Helper()
	for _, e := range events {
		e.Time = l.time()
		l.line(audit.Line{Event: &e})
	}
}

func (l *testLog) time() time.Time { return begin.Add(time.Duration(l.head.Seq) * time.Minute) }

func (l *testLog) line(line audit.Line) {
	l.t.Helper()
	line.Seq, line.Prev = l.head.Seq+1, l.head.Hash
	text, err := json.Marshal(line)
	if err != nil {
		l.t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	l.head = audit.Head{Seq: line.Seq, Hash: hex.EncodeToString(sum[:])}
	l.write(append(text, '\n'))
}

// requests appends lines of n requests.
func (l *testLog) requests(n int) {
	for range n {
		l.append(audit.Entry{RequestId: fmt.Sprintf("r-%d", l.head.Seq+1), Principal: "alice", Action: "AsymmetricSign", KeyId: "k-1", Source: "192.0.2.7"})
	}
}

// sign gives the log's signed head.
func (l *testLog) sign() audit.Checkpoint {
	l.t.Helper()
	c := audit.Checkpoint{Head: l.head, Time: begin.Add(time.Hour)}
	signature, err := ecdsa.SignASN1(rand.Reader, l.key, c.Digest())
	if err != nil {
		l.t.Fatal(err)
	}
	c.Signature = signature
	return c
}

func (l *testLog) checkpoint() {
	c := l.sign()
	l.events(audit.Event{Kind: audit.KindCheckpoint, Checkpoint: &c})
}

func (l *testLog) rotate(first int) string {
	l.t.Helper()
	name := fmt.Sprintf("%s.%016d", l.path, first)
	if err := os.Rename(l.path, name); err != nil {
		l.t.Fatal(err)
	}
	return name
}

// publicKey writes the key that checks the log into a file.
func (l *testLog) publicKey() string {
	l.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&l.key.PublicKey)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.file("audit.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
}

func (l *testLog) file(name, text string) string {
	l.t.Helper()
	name = filepath.Join(filepath.Dir(l.path), name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return name
}

// runAudit runs a command that only reads files.
func runAudit(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	g := new(fakeGateway)
	stdout, _, err = g.kmsgate("", append([]string{"audit"}, args...)...)
	if g.dialed > 0 {
		t.Errorf("audit %s dialed a gateway", args)
	}
	return stdout, err
}

func TestVerify(t *testing.T) {
	log := newTestLog(t)
	key := log.publicKey()
	log.requests(3)
	early := log.sign()
	log.checkpoint()
	rotated := log.sign()
	first := log.rotate(1)
	log.requests(12)
	late := log.sign()
	t.Setenv(auditFileVariable, log.path)
	headFile := log.file("head", early.String()+"\n")
	const proven = "proven: lines 1 to 3, up to 2026-11-22T01:00:00Z; 13 more lines since then hang together but no checkpoint covers them yet\n"
	for name, args := range map[string][]string{
		"the environment's": {"--public-key", key},
		"files":             {first, log.path, "--public-key", key},
		"a head":            {"--public-key", key, "--expect", late.String()},
		"a head in a file":  {"--public-key", key, "--expect", "@" + headFile},
	} {
		if got, err := runAudit(t, append([]string{"verify"}, args...)...); err != nil || got != proven {
			t.Errorf("verify %s: %q, %v", name, got, err)
		}
	}
	t.Setenv(auditKeyVariable, key)
	got, err := runAudit(t, "verify", "-o", "json")
	var proof audit.VerifyResult
	if err := json.Unmarshal([]byte(got), &proof); err != nil || proof.Lines != 16 || proof.Proven != early.Head || proof.Last != late.Head {
		t.Errorf("verify -o json: %s, %v", got, err)
	}
	if err != nil {
		t.Error(err)
	}
	log.checkpoint()
	const since = "proven: lines 5 to 16, up to 2026-11-22T01:00:00Z; 1 more line since then hangs together with them but no checkpoint covers it yet\n"
	if got, err := runAudit(t, "verify", log.path, "--after", rotated.String()); err != nil || got != since {
		t.Errorf("verify of the lines since the rotation: %q, %v", got, err)
	}
	if got, err := runAudit(t, "verify", log.path, "--after", early.String()); err == nil {
		t.Errorf("a file behind another line than the one it follows: %q", got)
	}
}

// TestVerifyRefuses breaks logs and command lines.
func TestVerifyRefuses(t *testing.T) {
	log := newTestLog(t)
	key := log.publicKey()
	log.requests(3)
	log.checkpoint()
	head := log.sign()
	text, err := os.ReadFile(log.path)
	if err != nil {
		t.Fatal(err)
	}
	cut := log.file("cut", string(bytes.Join(bytes.SplitAfter(text, []byte("\n"))[:3], nil)))
	behind := log.file("behind", string(bytes.Join(bytes.SplitAfter(text, []byte("\n"))[1:], nil)))
	edited := log.file("edited", strings.Replace(string(text), "r-2", "r-7", 1))
	hostile := log.file("hostile", strings.Replace(string(text), `"Prev":"0000`, `"Prev":"\u001b[2J`, 1))
	other := newTestLog(t).publicKey()
	for want, args := range map[string][]string{
		"edited: line 3: ": {edited, "--public-key", key},
		`after \x1b[2J`:    {hostile, "--public-key", key},
		"missing (or give the head that it follows, with --after)": {behind, "--public-key", key},
		"public key's":                       {log.path, "--public-key", other},
		"no checkpoint in it":                {cut, "--public-key", key},
		"cut off":                            {cut, "--public-key", key, "--expect", head.String()},
		"--expect: it is not what":           {log.path, "--public-key", key, "--expect", "nonsense"},
		"--after: it is not what":            {log.path, "--public-key", key, "--after", "nonsense"},
		"without its public key a log":       {log.path},
		"it is not a public key":             {log.path, "--public-key", log.path},
		"open /nonexistent":                  {"/nonexistent", "--public-key", key},
		"which log? Give its FILE, the gate": {"--public-key", key},
	} {
		got, err := runAudit(t, append([]string{"verify"}, args...)...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("verify %s: %v, want %s", args, err, want)
		}
		if got != "" {
			t.Errorf("verify %s printed %q", args, got)
		}
	}
}

func TestProven(t *testing.T) {
	line := func(seq uint64) audit.Head { return audit.Head{Seq: seq} }
	for want, p := range map[string]audit.VerifyResult{
		"proven: lines 1 to 9, up to 2026-11-22T00:00:00Z": {First: line(1), Last: line(9), Proven: line(9), ProvenTime: begin},
		"proven: lines 1 to 8, up to 2026-11-22T00:00:00Z; 1 more line since then hangs together with them but no checkpoint covers it yet": {First: line(1), Last: line(9), Proven: line(8), ProvenTime: begin},
		"proven: lines 3 to 7, up to 2026-11-22T00:00:00Z; 2 more lines since then hang together but no checkpoint covers them yet":         {First: line(3), Last: line(9), Proven: line(7), ProvenTime: begin},
		"not proven yet: lines 3 to 9 hang together but no checkpoint covers them":                                                          {First: line(3), Last: line(9), Proven: line(2), ProvenTime: begin},
	} {
		if got := proven(p); got != want {
			t.Errorf("%+v: %s, want %s", p, got, want)
		}
	}
}

func TestSearch(t *testing.T) {
	log := newTestLog(t)
	log.append(
		audit.Entry{RequestId: "r-1", Principal: "alice", Action: "AsymmetricSign", KeyId: "k-1", KeyVersionId: "v-1", Alias: "alias/x", AccessKeyId: "A", Source: "192.0.2.7"},
		audit.Entry{RequestId: "r-2", Principal: "bob", Action: "DisableKey", KeyId: "k-2", AccessKeyId: "B", Source: "192.0.2.8", Code: "Forbidden.NoPermission", Status: 403},
		audit.Entry{RequestId: "r-3", Principal: "admin", Action: "CreateUser", Subject: "carol"},
	)
	log.rotate(1)
	log.events(audit.Event{Kind: audit.KindRecovered, Recovered: true}, audit.Event{Kind: audit.KindSuppressed, Suppressed: 7, Source: "192.0.2.9"})
	log.append(audit.Entry{RequestId: "r-6", AccessKeyId: "?", Action: "AsymmetricSign", Code: "InvalidAccessKeyId.NotFound"})
	log.checkpoint()
	t.Setenv(auditFileVariable, log.path)
	for line, want := range map[string]string{
		"":                                  "1 2 3 4 5 6 7",
		"--user alice":                      "1",
		"--action AsymmetricSign":           "1 6",
		"--action AsymmetricSign --code ok": "1",
		"--key k-2":                         "2",
		"--key v-1":                         "1",
		"--alias alias/x":                   "1",
		"--access-key B":                    "2",
		"--source 192.0.2.9":                "5",
		"--code Forbidden.NoPermission":     "2",
		"--code ok":                         "1 3",
		"--request-id r-3":                  "3",
		"--since 2026-11-22T00:05:00Z":      "6 7",
		"--until 2026-11-22T00:02":          "1 2",
		"--since 2026-11-22T08:02:00+08:00 --until 2026-11-22T00:04:00": "3 4",
		"--until 2026-11-22": "",
		"--user nobody":      "",
		log.path:             "4 5 6 7",
	} {
		for _, command := range []string{"search -o json", "export", "export --format jsonl"} {
			got, err := runAudit(t, append(strings.Fields(command), strings.Fields(line)...)...)
			var found []string
			for _, text := range strings.Split(strings.TrimSpace(got), "\n") {
				var line audit.Line
				if json.Unmarshal([]byte(text), &line) == nil {
					found = append(found, fmt.Sprint(line.Seq))
				}
			}
			if err != nil || strings.Join(found, " ") != want {
				t.Errorf("%s %s: lines %s, %v, want %s", command, line, found, err, want)
			}
		}
	}
	got, err := runAudit(t, "search")
	want := `Time                  User            Action                Of                                    Code                    Source           RequestId
2026-11-22T00:00:00Z  alice           AsymmetricSign        alias/x                               ok                      192.0.2.7        r-1
2026-11-22T00:01:00Z  bob             DisableKey            k-2                                   Forbidden.NoPermission  192.0.2.8        r-2
2026-11-22T00:02:00Z  admin           CreateUser            carol                                 ok                      -                r-3
2026-11-22T00:03:00Z  -               (recovered)           -                                     -                       -                -
2026-11-22T00:04:00Z  -               (7 suppressed)        -                                     -                       192.0.2.9        -
2026-11-22T00:05:00Z  -               AsymmetricSign        -                                     InvalidAccessKeyId.NotFound  -                r-6
2026-11-22T00:06:00Z  -               (checkpoint)          -                                     -                       -                -
`
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("search: %v, (-want +got):\n%s", err, diff)
	}
	// What the log has is what is printed.
	raw, err := os.ReadFile(log.path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := runAudit(t, "search", "-o", "json", log.path); got != string(raw) || err != nil {
		t.Errorf("search -o json: %v, %s", err, cmp.Diff(string(raw), got))
	}
}

// TestOwnLines shows each kind of line that the log writes about itself.
func TestOwnLines(t *testing.T) {
	log := newTestLog(t)
	log.requests(1)
	texts := map[audit.Kind]string{audit.KindSuppressed: "(7 suppressed)", audit.KindUnwitnessed: "(3 unwitnessed)"}
	var want []string
	for _, kind := range append(audit.Kinds(), "later") {
		e := audit.Event{Kind: kind}
		switch kind {
		case audit.KindSuppressed:
			e.Suppressed = 7
		case audit.KindUnwitnessed:
			e.Unwitnessed = 3
		case audit.KindAbandoned: // as a gateway writes it
			e.Abandoned, e.Resumed = "flushing it failed", "flushing it failed"
		}
		log.events(e)
		want = append(want, stdcmp.Or(texts[kind], "("+string(kind)+")"))
	}
	for fields, kind := range map[string]string{
		`"Unwitnessed":3`:                 "(3 unwitnessed)",
		`"Resumed":"so","Abandoned":"so"`: "(abandoned)",
		`"Resumed":"so"`:                  "(resumed)",
	} { // as earlier versions wrote them
		log.write([]byte(`{"Seq":20,"Prev":"","Time":"2026-11-22T00:00:00Z",` + fields + "}\n"))
		want = append(want, kind)
	}
	for _, command := range []string{"tail -n 100", "search"} {
		got, err := runAudit(t, append(strings.Fields(command), log.path)...)
		if err != nil {
			t.Fatal(err)
		}
		var shown []string
		for _, row := range strings.Split(strings.TrimSpace(got), "\n")[2:] { // behind the names and the request
			shown = append(shown, strings.TrimSpace(row[38:60]))
		}
		if diff := cmp.Diff(want, shown); diff != "" {
			t.Errorf("%s (-want +got):\n%s", command, diff)
		}
	}
}

func TestSearchRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"search /nonexistent":         "open /nonexistent",
		"search --since tomorrow x":   `--since: "tomorrow" is neither a time`,
		"export --until 22.11.2026 x": `--until: "22.11.2026" is neither a time`,
		"export --format xml":         `invalid argument "xml" for "--format" flag: it has to be one of jsonl, csv`,
		"search":                      "which log?",
		"tail":                        "which log?",
		"tail /nonexistent/audit.log": "/nonexistent",
		"tail -n -1 x":                "-n: -1 is not 0 or more",
	} {
		if _, err := runAudit(t, strings.Fields(line)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}

// hostileLines have text in every field that can have some: one of a request, one
// of the log itself.
func hostileLines(text string) []audit.Line {
	entry, event := new(audit.Entry), new(audit.Event)
	for _, v := range []reflect.Value{reflect.ValueOf(entry).Elem(), reflect.ValueOf(event).Elem()} {
		for _, f := range fieldsOf(v.Type()) {
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
	entry.Time, entry.Digest, entry.Valid = begin, []byte(text), new(bool)
	event.Time = begin
	event.Checkpoint = &audit.Checkpoint{Head: audit.Head{Seq: 1, Hash: text}, Time: begin}
	event.Restored = event.Checkpoint
	return []audit.Line{{Seq: 1, Prev: text, Entry: entry}, {Seq: 2, Prev: text, Event: event}}
}

// TestHostile reads a log full of what would act on a terminal or a spreadsheet.
func TestHostile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	const attack = "=\x1b]0;x\a\u009b2J\u202e\r\n\t\x7f"
	var content []byte
	for _, line := range hostileLines(attack) {
		text, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		content = append(append(content, text...), '\n')
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"tail", "search", "tail -o json", "search -o json", "export", "export --format csv"} {
		got, err := runAudit(t, append(strings.Fields(command), path)...)
		if err != nil || got == "" {
			t.Errorf("%s: %q, %v", command, got, err)
		}
		for _, line := range strings.Split(strings.TrimSuffix(got, "\n"), "\n") {
			if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e }) {
				t.Errorf("%s prints %q", command, line)
			}
		}
		if lines := strings.Count(got, "\n"); lines > 3 {
			t.Errorf("%s makes %d lines of two:\n%s", command, lines, got)
		}
	}
	got, _ := runAudit(t, "export", "--format", "csv", path)
	rows, err := csv.NewReader(strings.NewReader(got)).ReadAll()
	if err != nil || len(rows) != 3 || rows[0][0] != "Seq" {
		t.Fatalf("the CSV is %q, %v", got, err)
	}
	for i, cell := range append(rows[1], rows[2]...) {
		i %= len(rows[0])
		if strings.HasPrefix(cell, "=") || strings.Contains(cell, "2J") && !strings.HasPrefix(cell, "'=") && rows[0][i] != "Checkpoint" && rows[0][i] != "Restored" {
			t.Errorf("%s is %q", rows[0][i], cell)
		}
	}
}

func TestTail(t *testing.T) {
	log := newTestLog(t)
	log.requests(7)
	log.rotate(1)
	log.requests(6)
	log.rotate(8)
	log.requests(2)
	log.write([]byte(`{"Seq":16,"Prev":"`)) // being written
	for n, want := range map[string]string{"0": "", "2": "14-15", "3": "13-15", "10": "6-15", "100": "1-15"} {
		got, err := runAudit(t, "tail", "-o", "json", "-n", n, log.path)
		if err != nil || seqs(got) != want {
			t.Errorf("tail -n %s: lines %s, %v, want %s", n, seqs(got), err, want)
		}
	}
}

// TestTailOfLarge reads the end only: what is before it is no log.
func TestTailOfLarge(t *testing.T) {
	log := newTestLog(t)
	log.write(bytes.Repeat([]byte("not a line\n"), 1<<20))
	log.requests(2000)
	got, err := runAudit(t, "tail", "-o", "json", "-n", "1500", log.path)
	if err != nil || seqs(got) != "501-2000" {
		t.Errorf("tail -n 1500: lines %s, %v", seqs(got), err)
	}
}

// seqs gives the first and the last line's number, if none between is missing.
func seqs(text string) string {
	var first, last uint64
	for line := range strings.Lines(text) {
		var l audit.Line
		if err := json.Unmarshal([]byte(line), &l); err != nil || last != 0 && l.Seq != last+1 {
			return fmt.Sprintf("%d-%d, then %s", first, last, line)
		}
		if last = l.Seq; first == 0 {
			first = l.Seq
		}
	}
	if first == 0 {
		return ""
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// A syncBuffer can be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestFollow follows a log across rotations, also two at once, and ends when its
// context does.
func TestFollow(t *testing.T) {
	log := newTestLog(t)
	log.requests(3)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out syncBuffer
	root := &cobra.Command{Use: "kmsgate", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(adminCommands(new(fakeGateway))...)
	root.SetOut(&out)
	root.SetArgs([]string{"audit", "tail", "-f", "-n", "1", "-o", "json", log.path})
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	await := func(want string) {
		t.Helper()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for timeout := time.After(10 * time.Second); seqs(out.String()) != want; {
			select {
			case err := <-ended:
				t.Fatalf("tail -f ended: %v", err)
			case <-timeout:
				t.Fatalf("tail -f printed lines %s, want %s", seqs(out.String()), want)
			case <-tick.C:
			}
		}
	}
	await("3-3")
	log.requests(2)
	await("3-5")
	log.requests(1)
	log.rotate(1)
	log.requests(2)
	await("3-8")
	log.requests(1)
	log.rotate(7)
	log.requests(4)
	log.rotate(10)
	await("3-13") // there is no file at the path now
	half := `{"Seq":14,`
	log.write([]byte(half))
	log.write([]byte(`"Prev":"x","Time":"2026-11-22T00:00:00Z"}` + "\n"))
	await("3-14")
	stop()
	if err := <-ended; err != nil {
		t.Errorf("tail -f ended with %v", err)
	}
}
