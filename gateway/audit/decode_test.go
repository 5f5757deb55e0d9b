package audit_test

import (
	"reflect"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// checkDecoding checks that the decoder agrees with encoding/json about a text, and reports whether
// it decodes it.
func checkDecoding(t *testing.T, text []byte) (ok bool) {
	t.Helper()
	got, ok := audit.DecodeEntryLine(text)
	if !ok {
		return false
	}
	var want audit.Line
	if err := want.UnmarshalJSON(text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("DecodeEntryLine(%q):\ngot  %+v\nwant %+v, %v", text, got.Entry, want.Entry, err)
	}
	return true
}

// entryLine is a line with every field.
const entryLine = `{"Seq":7,"Prev":"6cdd","Time":"2026-11-30T01:02:03.5+08:00","RequestId":"r","Door":"rpc","Protocol":"p","Source":"192.0.2.7",` +
	`"AccessKeyId":"k","Principal":"u","LoginUid":"1","OnBehalfOf":"o","AsAdministrator":true,"Reference":"\u003c\"中","Action":"AsymmetricSign",` +
	`"Quota":"q","KeyId":"k","KeyVersionId":"v","Subject":"s","Alias":"a","KeySpec":"EC_P256","Algorithm":"ECDSA_SHA_256","Digest":"+/8=","Valid":false,` +
	`"DryRun":true,"Intended":true,"Status":200,"Code":"c","Reason":"r","DurationNanoseconds":10,"Change":9,"Late":true,"NotReleased":6,"ClosedTo":5}`

// splice returns text with n bytes at a position replaced.
func splice(text string, position, n int, replacement string) []byte {
	position = min(position, len(text))
	return []byte(text[:position] + replacement + text[min(position+n, len(text)):])
}

// TestDecodeEntryLine changes a line at every byte. Whatever the decoder decodes must be the same
// for encoding/json.
func TestDecodeEntryLine(t *testing.T) {
	if !checkDecoding(t, []byte(entryLine)) {
		t.Fatal("the decoder does not decode the line")
	}
	for position := range len(entryLine) + 1 {
		for _, replacement := range []string{"", `"`, `\`, ",", ":", "{", "}", " ", "0", "1", "-", "+", ".", "e", "E", "u", "Z", "<", "\x00", "\x7f", "\xff", "é", `,"Code":"c"`} {
			checkDecoding(t, splice(entryLine, position, 0, replacement))
			checkDecoding(t, splice(entryLine, position, 1, replacement))
		}
	}
}

// FuzzDecodeEntryLine replaces a part of a line by an arbitrary text.
func FuzzDecodeEntryLine(f *testing.F) {
	for _, replacement := range []string{`"Seq":8,`, `"seq":8,`, `"SEQ":8,`, `"Kind":"checkpoint",`, `"Suppressed":7,`, `"Unknown":[{}],`, `"Prev":null,`, `"Time":null,`} {
		f.Add(1, 0, replacement)
	}
	f.Add(7, 1, "18446744073709551616")
	f.Add(7, 1, "7.0")
	f.Add(7, 1, "07")
	for _, end := range []string{"", " }", "} ", "}}", "}\r", `,"Late":true}`, `,"late":true}`, `,"Subject":"t"}`, `,"Recovered":true}`, `,"Time":"2026-11-30T01:02:03Z"}`} {
		f.Add(len(entryLine)-1, 1, end)
	}
	f.Add(0, len(entryLine), `{"Seq":1}`)
	f.Fuzz(func(t *testing.T, position, n int, replacement string) {
		checkDecoding(t, splice(entryLine, max(position, 0), max(n, 0)%(2*len(entryLine)), replacement))
	})
}
