package audit_test

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// values returns values of a field of an entry, among them those that JSON omits or escapes. The
// second is one that JSON has.
func values(t *testing.T, field reflect.StructField) (values []any) {
	t.Helper()
	yes := true
	switch field.Type {
	case reflect.TypeFor[time.Time]():
		moment := time.Date(2026, 11, 30, 1, 2, 3, 120_000_000, time.UTC)
		values = []any{time.Time{}, moment, moment.Truncate(time.Second), moment.In(time.FixedZone("", 8*3600)),
			moment.In(time.FixedZone("", -5*3600-1800)), moment.In(time.FixedZone("", 3601)), moment.In(time.FixedZone("", 24*3600)),
			moment.AddDate(7973, 0, 0), moment.AddDate(7974, 0, 0), moment.AddDate(-2027, 0, 0), time.Unix(math.MaxInt64/2, 0)}
	case reflect.TypeFor[string]():
		values = []any{"", "a", hostile, "a" + hostile + "é🔑中", "\"\\/\b\f\n\r\t\x00\x1f<>&'", "\xff\xc0\x80a\xed\xa0\x80\xf0\x9f", "\ufffd",
			strings.Repeat("long ", 1000)}
		for c := range rune(256) {
			values = append(values, string(c), string([]byte{byte(c)}))
		}
	case reflect.TypeFor[[]byte]():
		values = []any{[]byte(nil), []byte{0}, []byte{}, []byte{0xFB, 0xFF}, []byte{0xFB, 0xFF, 0xFE}, make([]byte, 64)}
	case reflect.TypeFor[*bool]():
		values = []any{(*bool)(nil), &yes, new(bool)}
	case reflect.TypeFor[bool]():
		values = []any{false, true}
	case reflect.TypeFor[int]():
		values = []any{0, 1, 200, math.MaxInt32, math.MaxInt32 + 1, math.MaxInt, -1, math.MinInt}
	case reflect.TypeFor[time.Duration]():
		values = []any{time.Duration(0), time.Nanosecond, time.Duration(math.MaxInt64), time.Duration(-1), time.Duration(math.MinInt64)}
	case reflect.TypeFor[uint64]():
		values = []any{uint64(0), uint64(1), uint64(math.MaxUint64)}
	default:
		t.Fatalf("field %s: add values of the type %v here", field.Name, field.Type)
	}
	return values
}

// TestEncodeEntry encodes entries with each value of each field, alone and with all other fields
// set. The text must be that of encoding/json. The decoder must be able to decode it, unless a
// number is negative or large.
func TestEncodeEntry(t *testing.T) {
	fields := reflect.VisibleFields(reflect.TypeFor[audit.Entry]())
	var full audit.Entry
	for _, f := range fields {
		reflect.ValueOf(&full).Elem().FieldByIndex(f.Index).Set(reflect.ValueOf(values(t, f)[1]))
	}
	for _, f := range fields {
		for _, value := range values(t, f) {
			for _, e := range []audit.Entry{{}, full} {
				reflect.ValueOf(&e).Elem().FieldByIndex(f.Index).Set(reflect.ValueOf(value))
				text := checkEncoding(t, e)
				n := reflect.ValueOf(value)
				unusual := n.CanInt() && (n.Int() < 0 || n.Kind() == reflect.Int && n.Int() > math.MaxInt32)
				if text != nil && !checkDecoding(t, text) && !unusual {
					t.Errorf("%s: the decoder does not decode %.200s", f.Name, text)
				}
			}
		}
	}
}

// checkEncoding checks that an entry has the text of encoding/json, and returns a line with it. It
// returns nil if encoding/json cannot encode the entry; the encoder must return an error then.
func checkEncoding(t *testing.T, e audit.Entry) (line []byte) {
	t.Helper()
	want, wantErr := json.Marshal(e)
	got, err := audit.AppendEntry(nil, &e)
	if want = printable.JSON(want); string(got) != string(want) || (err == nil) != (wantErr == nil) {
		t.Errorf("AppendEntry: got\n%s, %v, want\n%s, %v", got, err, want, wantErr)
	}
	if wantErr != nil {
		return nil
	}
	return append([]byte(`{"Seq":18446744073709551615,"Prev":"`+strings.Repeat("0a", 32)+`",`), got[1:]...)
}

// FuzzEncodeEntry encodes entries with arbitrary values and decodes the lines.
func FuzzEncodeEntry(f *testing.F) {
	f.Add(hostile, "alias/中<🔑>", []byte{0xFB, 0xFF}, int64(200), uint64(1), int64(1796000000), 8*3600)
	f.Add("\xff\"\\\n", "\ufffd", []byte(nil), int64(-1), uint64(math.MaxUint64), int64(math.MaxInt64), -86400)
	f.Fuzz(func(t *testing.T, a, b string, digest []byte, number int64, change uint64, moment int64, zone int) {
		valid := number%2 == 0
		date := time.Unix(moment, number).In(time.FixedZone("", zone%200_000))
		text := checkEncoding(t, audit.Entry{Time: date, RequestId: a, Action: b, Alias: a + b, Reason: b + a, Digest: digest, Valid: &valid,
			DryRun: valid, Status: int(number), DurationNanoseconds: time.Duration(number), Change: change, Late: !valid})
		if text != nil {
			checkDecoding(t, text)
		}
	})
}
