package auditlog_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog/auditlogtest"
	"github.com/kmsgate/kmsgate/gateway/audit"
)

// newFilter returns a filter from words of the form NAME=VALUE. since and until are durations after
// the log's first line.
func newFilter(t *testing.T, words string) *auditlog.Filter {
	t.Helper()
	filter := new(auditlog.Filter)
	for _, word := range strings.Fields(words) {
		name, value, _ := strings.Cut(word, "=")
		known := false
		for _, field := range auditlog.Fields() {
			if field.Name == name {
				filter.Require(field, value)
				known = true
			}
		}
		offset, err := time.ParseDuration(value)
		switch {
		case known:
		case name == "since" && err == nil:
			filter.Since = auditlogtest.Begin.Add(offset)
		case name == "until" && err == nil:
			filter.Until = auditlogtest.Begin.Add(offset)
		default:
			t.Fatalf("unknown word %q", word)
		}
	}
	return filter
}

// TestFilter combines fields and times. A line must meet all conditions.
func TestFilter(t *testing.T) {
	log := auditlogtest.New(t)
	log.Append(
		audit.Entry{RequestId: "r-1", Principal: "alice", Action: "AsymmetricSign", KeyId: "k-1", KeyVersionId: "v-1",
			Alias: "alias/x", AccessKeyId: "A", Source: "192.0.2.7"},
		audit.Entry{RequestId: "r-2", Principal: "bob", Action: "DisableKey", KeyId: "k-2", AccessKeyId: "B",
			Source: "192.0.2.8", Code: "Forbidden.NoPermission"},
		audit.Entry{RequestId: "r-3", Principal: "alice", Action: "DisableKey", KeyId: "k-1"},
	)
	for _, kind := range audit.Kinds() {
		log.Events(auditlogtest.NewEvent(kind, log.Sign()))
	}
	last := 3 + len(audit.Kinds())
	from := func(first int) string { // the lines from first to last
		var all []string
		for n := first; n <= last; n++ {
			all = append(all, strconv.Itoa(n))
		}
		return strings.Join(all, " ")
	}
	for words, want := range map[string]string{
		"":                              from(1),
		"user=alice":                    "1 3",
		"user=alice action=DisableKey":  "3",
		"user=alice code=ok key=k-1":    "1 3",
		"key=v-1":                       "1",
		"key=k-1 alias=alias/x":         "1",
		"access-key=B":                  "2",
		"user=bob code=ok":              "",
		"code=Forbidden.NoPermission":   "2",
		"source=192.0.2.9":              "5", // of the requests that the line counts
		"source=192.0.2.9 user=alice":   "",
		"request-id=r-3":                "3",
		"user= action=":                 from(4), // events have neither
		"user=alice user=bob":           "",      // no line has both
		"since=1m":                      from(2),
		"until=1m":                      "1",
		"since=1m until=3m":             "2 3",
		"since=1m until=3m user=alice":  "3",
		"since=3m until=1m":             "",
		"since=10m action= code= user=": from(11),
	} {
		if got := found(t, search(t, auditlog.JSON, newFilter(t, words), log.Path)); got != want {
			t.Errorf("%s: got lines %s, want %s", words, got, want)
		}
	}
}

// TestFilterCounted tests that a search for a user's refusals finds the line that counts those
// without a separate line, and that the table shows whose they are.
func TestFilterCounted(t *testing.T) {
	log := auditlogtest.New(t)
	log.Append(audit.Entry{RequestId: "r-1", Principal: "alice", Code: "Forbidden.NoPermission"})
	log.Events(
		audit.Event{Kind: audit.KindSuppressed, Suppressed: 7, Source: "192.0.2.7", Principal: "alice", Code: "Forbidden.NoPermission"},
		audit.Event{Kind: audit.KindSuppressed, Suppressed: 8, Source: "192.0.2.8"},
	)
	for words, want := range map[string]string{
		"user=alice":                              "1 2",
		"user=alice code=Forbidden.NoPermission":  "1 2",
		"user=alice code=Rejected.Throttling":     "",
		"source=192.0.2.7 code=":                  "",
		"source=192.0.2.8 user= code=":            "3",
		"source=192.0.2.7 user=alice request-id=": "2",
	} {
		if got := found(t, search(t, auditlog.JSON, newFilter(t, words), log.Path)); got != want {
			t.Errorf("%s: got lines %s, want %s", words, got, want)
		}
	}
	table := search(t, auditlog.Table, newFilter(t, "source=192.0.2.7"), log.Path)
	if got := strings.Join(strings.Fields(table[strings.Index(table, "\n"):]), " "); !strings.HasSuffix(got, "alice (7 suppressed) - Forbidden.NoPermission 192.0.2.7 -") {
		t.Errorf("the table: got %s, want the user and the code", got)
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                          {},
		"24h":                       now.Add(-24 * time.Hour),
		"1h30m":                     now.Add(-90 * time.Minute),
		"2026-11-22":                now.Add(-8 * time.Hour),
		"2026-11-22T07:30":          now.Add(-30 * time.Minute),
		"2026-11-22T07:59:59":       now.Add(-time.Second),
		"2026-11-22T08:00:00Z":      now,
		"2026-11-22T16:00:00+08:00": now,
	} {
		if got, err := auditlog.ParseTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("ParseTime(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"tomorrow", "22.11.2026", "8", "2026-13-01"} {
		if got, err := auditlog.ParseTime(text, now); err == nil || !strings.Contains(err.Error(), "neither a time") {
			t.Errorf("ParseTime(%q) = %v, %v, want an error", text, got, err)
		}
	}
}
