package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// TestKindsComplete checks that every constant of type Kind is in the table with a meaning, and
// that every field of an Event determines one kind.
func TestKindsComplete(t *testing.T) {
	declared := slices.Sorted(slices.Values(declaredKinds(t)))
	if len(declared) < 8 || !slices.Equal(declared, slices.Sorted(slices.Values(audit.Kinds()))) {
		t.Errorf("Kinds: got %v, want the constants %v", audit.Kinds(), declared)
	}
	for _, kind := range audit.Kinds() {
		if kind.Meaning() == "" {
			t.Errorf("Meaning of %s: got \"\", want a sentence", kind)
		}
	}
	var determined []audit.Kind
	for _, field := range reflect.VisibleFields(reflect.TypeFor[audit.Event]()) {
		if !field.IsExported() || slices.Contains([]string{"Time", "Kind", "Source", "Changes", "ClosedTo", "Principal", "Code", "First", "Last"}, field.Name) {
			continue
		}
		var e audit.Event
		fill(t, reflect.ValueOf(&e).Elem().FieldByIndex(field.Index))
		kind := e.KindOfFields()
		if want := strings.ToLower(field.Name); string(kind) != want {
			t.Errorf("kind of an event with %s: got %q, want %q", field.Name, kind, want)
		}
		determined = append(determined, kind)
	}
	if len(determined) != len(audit.Kinds()) {
		t.Errorf("kinds of the fields: got %v, want %v", determined, audit.Kinds())
	}
}

// fill sets a field to a non-zero value.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("why")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	default:
		t.Fatalf("the test cannot fill a %s", v.Type())
	}
}

// declaredKinds returns the constants of type Kind in the source.
func declaredKinds(t *testing.T) (kinds []audit.Kind) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Kind" {
			for _, value := range spec.Values {
				kinds = append(kinds, audit.Kind(strings.Trim(value.(*ast.BasicLit).Value, `"`)))
			}
		}
		return true
	})
	return kinds
}

// TestKindsDocumented checks that docs/audit.md explains every kind with the text of Meaning.
func TestKindsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range audit.Kinds() {
		if row := fmt.Sprintf("| `%s` | %s |", kind, kind.Meaning()); !bytes.Contains(page, []byte(row)) {
			t.Errorf("docs/audit.md lacks the row\n%s", row)
		}
	}
}

// event returns an event of a kind with only the necessary fields set.
func event(t *testing.T, kind audit.Kind, head audit.Checkpoint) audit.Event {
	t.Helper()
	e := audit.Event{Time: time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC), Kind: kind}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[audit.Event]()) {
		if strings.EqualFold(field.Name, string(kind)) {
			fill(t, reflect.ValueOf(&e).Elem().FieldByIndex(field.Index))
		}
	}
	if e.Checkpoint != nil {
		e.Checkpoint = &head
	}
	if e.Restored != nil {
		e.Restored = &head
	}
	return e
}

// withEvents returns the lines of a log with an event of each kind, and a head of the log. It omits
// recovered events, which need a torn line, and abandoned events, which begin a file.
func withEvents(t *testing.T, kinds []audit.Kind) (lines []string, head audit.Checkpoint) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	appendLines(t, l, 2)
	head, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lines = strings.SplitAfter(string(read(t, path)), "\n")[:2]
	closeLog(t, l)
	for _, kind := range kinds {
		if kind == audit.KindRecovered || kind == audit.KindAbandoned {
			continue
		}
		text, err := json.Marshal(audit.Line{Seq: 1, Event: new(event(t, kind, head))})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(text)+"\n")
	}
	return chain(lines), head
}

// withoutKind removes the Kind from lines, as earlier versions wrote them.
func withoutKind(lines []string) []string {
	var old []string
	for _, line := range lines {
		for _, kind := range audit.Kinds() {
			line = strings.Replace(line, fmt.Sprintf(`"Kind":"%s",`, kind), "", 1)
		}
		old = append(old, line)
	}
	return chain(old)
}

// TestKindsVerified verifies an event of each kind, events whose fields do not match their kind,
// and one of a kind that a later version may write.
func TestKindsVerified(t *testing.T) {
	v := audit.Verifier{Key: &key.PublicKey}
	lines, _ := withEvents(t, audit.Kinds())
	for name, text := range map[string]string{
		"with": strings.Join(lines, ""), "without": strings.Join(withoutKind(lines), ""),
	} {
		result, err := verifyText(v, text)
		if err != nil || result.Lines != uint64(len(lines)) || result.Checkpoints != 1 || len(result.Restored) != 1 {
			t.Errorf("%s kinds: got %+v, %v, want %d lines, a checkpoint and a restored head\n%s",
				name, result, err, len(lines), text)
		}
	}
	for _, kind := range audit.Kinds() {
		lines, head := withEvents(t, nil)
		e := event(t, kind, head)
		for name, broken := range map[string]audit.Event{
			"nothing": {Time: e.Time, Kind: kind},
			"another kind": {Time: e.Time, Kind: kind, Lost: "so",
				Suppressed: map[bool]int{true: 1}[kind == audit.KindLost]},
		} {
			text, err := json.Marshal(audit.Line{Seq: 1, Event: &broken})
			if err != nil {
				t.Fatal(err)
			}
			result, err := verifyText(v, strings.Join(chain(append(slices.Clone(lines), string(text)+"\n")), ""))
			if err == nil || !strings.Contains(err.Error(), "line 3: its Kind is") {
				t.Errorf("%s with the fields of %s: got %+v, %v, want an error about line 3", kind, name, result, err)
			}
		}
	}
	later := chain(append(slices.Clone(lines),
		`{"Seq":1,"Prev":"","Time":"2026-11-22T04:00:00Z","Kind":"later","Later":7}`+"\n"))
	if result, err := verifyText(v, strings.Join(later, "")); err != nil || result.Lines != uint64(len(later)) {
		t.Errorf("a kind of a later version: got %+v, %v, want %d lines", result, err, len(later))
	}
}

// TestLinesAsWritten checks that reading and writing a line reproduces every byte, with and without
// its kind.
func TestLinesAsWritten(t *testing.T) {
	lines, head := withEvents(t, audit.Kinds())
	for _, kind := range []audit.Kind{audit.KindRecovered, audit.KindAbandoned} {
		text, err := json.Marshal(audit.Line{Seq: 1, Event: new(event(t, kind, head))})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(text)+"\n")
	}
	chain(lines)
	for _, text := range slices.Concat(lines, withoutKind(lines)) {
		var line audit.Line
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		if again, err := json.Marshal(line); err != nil || string(again)+"\n" != text {
			t.Errorf("got %v\n%s\nwant\n%s", err, again, text)
		}
		if (line.Entry == nil) == (line.Event == nil) {
			t.Errorf("got Entry %v and Event %v, want exactly one: %s", line.Entry, line.Event, text)
		}
	}
}

// TestSuppressedAsWritten checks every character of a line that counts the refusals of one caller,
// and that reading it returns the same event.
func TestSuppressedAsWritten(t *testing.T) {
	first := time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC)
	e := audit.Event{Time: first.Add(time.Minute), Kind: audit.KindSuppressed, Source: "192.0.2.7", Suppressed: 7,
		Principal: "alice", Code: "Rejected.Throttling", First: first, Last: first.Add(time.Second)}
	text, err := json.Marshal(audit.Line{Seq: 1, Prev: "p", Event: &e})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"Seq":1,"Prev":"p","Time":"2026-11-22T04:01:00Z","Kind":"suppressed","Source":"192.0.2.7","Suppressed":7,` +
		`"Principal":"alice","Code":"Rejected.Throttling","First":"2026-11-22T04:00:00Z","Last":"2026-11-22T04:00:01Z"}`
	if string(text) != want {
		t.Errorf("the line: got\n%s\nwant\n%s", text, want)
	}
	var line audit.Line
	if err := json.Unmarshal(text, &line); err != nil || line.Event == nil || !reflect.DeepEqual(*line.Event, e) {
		t.Errorf("read again: got %+v, %v, want %+v", line.Event, err, e)
	}
}

// TestEventText checks that the text of an event ends with its kind, in parentheses.
func TestEventText(t *testing.T) {
	for _, kind := range append(audit.Kinds(), "later") {
		e := event(t, kind, audit.Checkpoint{})
		if text := e.String(); !strings.HasPrefix(text, "(") || !strings.HasSuffix(text, string(kind)+")") {
			t.Errorf("text of %s: got %s, want the kind in parentheses", kind, text)
		}
	}
}

// TestOldFormat continues a log of an earlier version with a torn line, a failed flush and
// unwitnessed lines.
func TestOldFormat(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	lines, head := withEvents(t, audit.Kinds())
	lines = withoutKind(lines)
	torn := `{"Seq":9,"Prev":"00`
	recovered := oldLine(lines, torn, `"Recovered":true`)
	whole := append(slices.Clone(lines), torn+"\n", recovered)
	// The end of the first file is void, because the next file follows recovered.
	void := oldLine(whole, "", `"RequestId":"void"`)
	abandoned := oldLine(whole, "", `"Resumed":"flushing it failed","Abandoned":"flushing it failed"`)
	if err := os.WriteFile(path+".0000000000000001", []byte(strings.Join(append(whole, void), "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(abandoned), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config(path)
	cfg.Expect = head.Head
	l := openConfig(t, cfg)
	appendLines(t, l, 1)
	closeLog(t, l)
	result, err := verify(t, path)
	if err != nil || result.Void != 1 || result.Proven.Seq != result.Last.Seq-1 || len(result.Restored) != 1 {
		t.Errorf("Verify: got %+v, %v, want one void line and proven up to the line before the last", result, err)
	}
	var first audit.Line
	err = json.Unmarshal([]byte(abandoned), &first)
	if err != nil || first.Event == nil || first.Event.Kind != audit.KindAbandoned {
		t.Errorf("the abandoned event: got %+v, %v, want kind abandoned", first, err)
	}
	if text := string(read(t, path)); strings.Count(text, `"Kind":"checkpoint"`) != 1 {
		t.Errorf("the new lines lack a checkpoint with its kind:\n%s", text)
	}
}

// oldLine returns the line of an earlier version that follows lines and, if torn is not empty, a
// torn line.
func oldLine(lines []string, torn, fields string) string {
	var last audit.Line
	text := strings.TrimSuffix(lines[len(lines)-1], "\n")
	if err := json.Unmarshal([]byte(text), &last); err != nil {
		panic(err)
	}
	if torn != "" {
		text = torn
	}
	return fmt.Sprintf(`{"Seq":%d,"Prev":"%s","Time":"2026-11-22T04:00:00Z",%s}`+"\n", last.Seq+1, hashOf(text), fields)
}

// TestEntryAsWritten checks every character of a request's line, because operators' scripts read
// it.
func TestEntryAsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	if err := l.Append(audit.Entry{
		Time: time.Date(2026, 11, 22, 4, 0, 0, 7, time.UTC), RequestId: "r", Door: "rpc",
		Protocol: "ACS3-HMAC-SHA256", Source: "192.0.2.7",
		AccessKeyId: "A", Principal: "alice", LoginUid: "1000", OnBehalfOf: "bob", AsAdministrator: true, Action: "AsymmetricVerify", Quota: "asymmetric",
		KeyId: "k", KeyVersionId: "v", Subject: "s", Alias: "alias/a", KeySpec: "EC_P256",
		Algorithm: "ECDSA_SHA_256", Digest: []byte{1, 2}, Valid: new(false), DryRun: true, Status: 403,
		Code: "Forbidden.NoPermission", Reason: "<why>", DurationNanoseconds: 1500, Late: true,
	}); err != nil {
		t.Fatal(err)
	}
	want := `{"Seq":1,"Prev":"` + strings.Repeat("0", 64) +
		`","Time":"2026-11-22T04:00:00.000000007Z","RequestId":"r","Door":"rpc",` +
		`"Protocol":"ACS3-HMAC-SHA256","Source":"192.0.2.7","AccessKeyId":"A","Principal":"alice",` +
		`"LoginUid":"1000","OnBehalfOf":"bob","AsAdministrator":true,"Action":"AsymmetricVerify","Quota":"asymmetric","KeyId":"k","KeyVersionId":"v","Subject":"s",` +
		`"Alias":"alias/a","KeySpec":"EC_P256","Algorithm":"ECDSA_SHA_256","Digest":"AQI=","Valid":false,` +
		`"DryRun":true,"Status":403,"Code":"Forbidden.NoPermission","Reason":"\u003cwhy\u003e",` +
		`"DurationNanoseconds":1500,"Late":true}` + "\n"
	if got := string(read(t, path)); got != want {
		t.Errorf("the line: got\n%swant\n%s", got, want)
	}
	closeLog(t, l)
}
