package main

import (
	"bytes"
	stdcmp "cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog/auditlogtest"
	"github.com/kmsgate/kmsgate/gateway/audit"
)

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
	log := auditlogtest.New(t)
	key := log.KeyFile()
	log.Requests(3)
	early := log.Sign()
	log.Checkpoint()
	rotated := log.Sign()
	first := log.Rotate(1)
	log.Requests(12)
	late := log.Sign()
	t.Setenv(auditFileVariable, log.Path)
	headFile := log.File("head", early.String()+"\n")
	const proven = "proven: lines 1 to 3, up to 2026-11-22T01:00:00Z; 12 lines after that checkpoint are chained to it, but no checkpoint covers them yet\n"
	const unopened = "The database was not opened: lines that are missing at the end would not show (give a head with --expect).\n"
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"the environment's": {[]string{"--audit-public-key", key}, proven + unopened},
		"files":             {[]string{first, log.Path, "--audit-public-key", key}, proven + unopened},
		"a head":            {[]string{"--audit-public-key", key, "--expect", late.String()}, proven},
		"a head in a file":  {[]string{"--audit-public-key", key, "--expect", "@" + headFile}, proven},
	} {
		if got, err := runAudit(t, append([]string{"verify"}, test.args...)...); err != nil || got != test.want {
			t.Errorf("verify %s: %q, %v", name, got, err)
		}
	}
	t.Setenv(auditKeyVariable, key)
	got, err := runAudit(t, "verify", "-o", "json")
	var proof struct {
		audit.VerifyResult
		NotChecked string
	}
	if err := json.Unmarshal([]byte(got), &proof); err != nil || proof.Lines != 16 || proof.Proven != early.Head ||
		proof.Last != late.Head || proof.NotChecked+"\n" != unopened {
		t.Errorf("verify -o json: %s, %v", got, err)
	}
	if err != nil {
		t.Error(err)
	}
	log.Checkpoint()
	const since = "proven: lines 5 to 16, up to 2026-11-22T01:00:00Z; the log is whole: its last line is the checkpoint\n" + unopened
	if got, err := runAudit(t, "verify", log.Path, "--after", rotated.String()); err != nil || got != since {
		t.Errorf("verify of the lines since the rotation: %q, %v", got, err)
	}
	if got, err := runAudit(t, "verify", log.Path, "--after", early.String()); err == nil {
		t.Errorf("a file behind another line than the one it follows: %q", got)
	}
}

// TestVerifyRefuses breaks logs and command lines.
func TestVerifyRefuses(t *testing.T) {
	log := auditlogtest.New(t)
	key := log.KeyFile()
	log.Requests(3)
	log.Checkpoint()
	head := log.Sign()
	text, err := os.ReadFile(log.Path)
	if err != nil {
		t.Fatal(err)
	}
	cut := log.File("cut", string(bytes.Join(bytes.SplitAfter(text, []byte("\n"))[:3], nil)))
	suffix := log.File("suffix", string(bytes.Join(bytes.SplitAfter(text, []byte("\n"))[1:], nil)))
	edited := log.File("edited", strings.Replace(string(text), "r-2", "r-7", 1))
	hostile := log.File("hostile", strings.Replace(string(text), `"Prev":"0000`, `"Prev":"\u001b[2J`, 1))
	other := auditlogtest.New(t).KeyFile()
	for want, args := range map[string][]string{
		"edited: line 3: ": {edited, "--audit-public-key", key},
		`after \x1b[2J`:    {hostile, "--audit-public-key", key},
		"missing (or give the head before them with --after)": {suffix, "--audit-public-key", key},
		"does not match the public key":                       {log.Path, "--audit-public-key", other},
		"the log has no checkpoint":                           {cut, "--audit-public-key", key},
		"cut off":                                             {cut, "--audit-public-key", key, "--expect", head.String()},
		"--expect: not a head":                                {log.Path, "--audit-public-key", key, "--expect", "nonsense"},
		"--after: not a head":                                 {log.Path, "--audit-public-key", key, "--after", "nonsense"},
		"which audit key?":                                    {log.Path},
		"not a public key in PEM":                             {log.Path, "--audit-public-key", log.Path},
		"open /nonexistent":                                   {"/nonexistent", "--audit-public-key", key},
		"which log? Give FILE, or the gate":                   {"--audit-public-key", key},
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

func TestSearch(t *testing.T) {
	log := auditlogtest.New(t)
	log.Append(
		audit.Entry{RequestId: "r-1", Principal: "alice", Action: "AsymmetricSign", KeyId: "k-1", KeyVersionId: "v-1", Alias: "alias/x", AccessKeyId: "A", Source: "192.0.2.7"},
		audit.Entry{RequestId: "r-2", Principal: "bob", Action: "DisableKey", KeyId: "k-2", AccessKeyId: "B", Source: "192.0.2.8", Code: "Forbidden.NoPermission", Status: 403},
		audit.Entry{RequestId: "r-3", Principal: "admin", Action: "CreateUser", Subject: "carol"},
	)
	log.Rotate(1)
	log.Events(audit.Event{Kind: audit.KindRecovered, Recovered: true}, audit.Event{Kind: audit.KindSuppressed, Suppressed: 7, Source: "192.0.2.9"})
	log.Append(audit.Entry{RequestId: "r-6", AccessKeyId: "?", Action: "AsymmetricSign", Code: "InvalidAccessKeyId.NotFound"})
	log.Checkpoint()
	t.Setenv(auditFileVariable, log.Path)
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
		log.Path:             "4 5 6 7",
	} {
		for _, command := range []string{"search -o json", "export", "export -o json"} {
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
	want := `Time                  User            Action                Object                                Code                    Source           RequestId
2026-11-22T00:00:00Z  alice           AsymmetricSign        alias/x                               OK                      192.0.2.7        r-1
2026-11-22T00:01:00Z  bob             DisableKey            k-2                                   Forbidden.NoPermission  192.0.2.8        r-2
2026-11-22T00:02:00Z  admin           CreateUser            carol                                 OK                      -                r-3
2026-11-22T00:03:00Z  -               (recovered)           -                                     -                       -                -
2026-11-22T00:04:00Z  -               (7 suppressed)        -                                     -                       192.0.2.9        -
2026-11-22T00:05:00Z  -               AsymmetricSign        -                                     InvalidAccessKeyId.NotFound  -                r-6
2026-11-22T00:06:00Z  -               (checkpoint)          -                                     -                       -                -
`
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("search: %v, (-want +got):\n%s", err, diff)
	}
	// Each line is printed exactly as it is in the log.
	raw, err := os.ReadFile(log.Path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := runAudit(t, "search", "-o", "json", log.Path); got != string(raw) || err != nil {
		t.Errorf("search -o json: %v, %s", err, cmp.Diff(string(raw), got))
	}
}

// TestOwnLines shows each kind of line that the log writes about itself.
func TestOwnLines(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(1)
	texts := map[audit.Kind]string{audit.KindSuppressed: "(7 suppressed)", audit.KindUnwitnessed: "(3 unwitnessed)", audit.KindUnanswered: "(2 unanswered)", audit.KindInDoubt: "(2 indoubt)"}
	var want []string
	for _, kind := range append(audit.Kinds(), "later") {
		log.Events(auditlogtest.NewEvent(kind, log.Sign()))
		want = append(want, stdcmp.Or(texts[kind], "("+string(kind)+")"))
	}
	n := log.Head.Seq
	for fields, kind := range map[string]string{
		`"Unwitnessed":3`:                 "(3 unwitnessed)",
		`"Resumed":"so","Abandoned":"so"`: "(abandoned)",
		`"Resumed":"so"`:                  "(resumed)",
	} { // as earlier versions wrote them
		n++
		log.Write(fmt.Sprintf(`{"Seq":%d,"Prev":"","Time":"2026-11-22T00:00:00Z",%s}`+"\n", n, fields))
		want = append(want, kind)
	}
	for _, command := range []string{"tail -n 100", "search"} {
		got, err := runAudit(t, append(strings.Fields(command), log.Path)...)
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
		"export -o xml":               `--output "xml": must be one of json, csv`,
		"search":                      "which log?",
		"tail":                        "which log?",
		"tail /nonexistent/audit.log": "/nonexistent",
		"tail -n -1 x":                "--lines -1: must be 0 or more",
	} {
		if _, err := runAudit(t, strings.Fields(line)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}

// TestHostile reads a log full of what would act on a terminal or a spreadsheet.
func TestHostile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	const attack = "=\x1b]0;x\a\u009b2J\u202e\r\n\t\x7f"
	var content []byte
	for _, line := range auditlogtest.HostileLines(attack) {
		text, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		content = append(append(content, text...), '\n')
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"tail", "search", "tail -o json", "search -o json", "export", "export -o csv"} {
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
	got, _ := runAudit(t, "export", "-o", "csv", path)
	rows, err := csv.NewReader(strings.NewReader(got)).ReadAll()
	if err != nil || len(rows) != 3 || rows[0][0] != "Seq" {
		t.Fatalf("the CSV is %q, %v", got, err)
	}
	for i, cell := range append(rows[1], rows[2]...) {
		i %= len(rows[0])
		if strings.HasPrefix(cell, "=") || strings.Contains(cell, "2J") && !strings.HasPrefix(cell, "'=") && rows[0][i] != "Checkpoint" && rows[0][i] != "Restored" && rows[0][i] != "Deleted" {
			t.Errorf("%s is %q", rows[0][i], cell)
		}
	}
}

func TestTail(t *testing.T) {
	log := auditlogtest.New(t)
	log.Requests(7)
	log.Rotate(1)
	log.Requests(6)
	log.Rotate(8)
	log.Requests(2)
	log.Write(`{"Seq":16,"Prev":"`) // being written
	for n, want := range map[string]string{"0": "", "2": "14-15", "3": "13-15", "10": "6-15", "100": "1-15"} {
		got, err := runAudit(t, "tail", "-o", "json", "-n", n, log.Path)
		if err != nil || seqs(got) != want {
			t.Errorf("tail -n %s: lines %s, %v, want %s", n, seqs(got), err, want)
		}
	}
}

// seqs returns the numbers of the first and the last line, if no line between is missing.
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
	log := auditlogtest.New(t)
	log.Requests(3)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out syncBuffer
	root := rootCommand(new(fakeGateway))
	root.SetOut(&out)
	root.SetArgs([]string{"audit", "tail", "-f", "-n", "1", "-o", "json", log.Path})
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	await := func(want string) {
		t.Helper()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for timeout := time.After(time.Minute); seqs(out.String()) != want; {
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
	log.Requests(2)
	await("3-5")
	log.Requests(1)
	log.Rotate(1)
	log.Requests(2)
	await("3-8")
	log.Requests(1)
	log.Rotate(7)
	log.Requests(4)
	log.Rotate(10)
	await("3-13") // there is no file at the path now
	half := `{"Seq":14,`
	log.Write(half)
	log.Write(`"Prev":"x","Time":"2026-11-22T00:00:00Z"}` + "\n")
	await("3-14")
	stop()
	if err := <-ended; err != nil {
		t.Errorf("tail -f ended with %v", err)
	}
}
