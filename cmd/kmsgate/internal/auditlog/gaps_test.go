package auditlog_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog/auditlogtest"
	"github.com/kmsgate/kmsgate/gateway/audit"
)

// searchLog returns the numbers of a log's lines, as a search finds them, and the error of the search.
func searchLog(t *testing.T, path string) (string, error) {
	t.Helper()
	var b bytes.Buffer
	n, err := auditlog.SearchLog(t.Context(), path, new(auditlog.Filter), auditlog.NewWriter(&b, auditlog.JSON))
	if lines := strings.Count(b.String(), "\n"); lines != n {
		t.Errorf("SearchLog returned %d and wrote %d lines", n, lines)
	}
	return found(t, b.String()), err
}

// tailGaps returns the error about missing lines of the last n lines.
func tailGaps(t *testing.T, path string, n int) error {
	t.Helper()
	_, tail, err := auditlog.OpenTail(path, n)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	return tail.Gaps()
}

// numbers returns the numbers from first to last.
func numbers(first, last int) string {
	var all []string
	for n := first; n <= last; n++ {
		all = append(all, fmt.Sprint(n))
	}
	return strings.Join(all, " ")
}

// TestGaps removes and damages files of a log. Every function finds the other lines, and names the
// missing ones.
func TestGaps(t *testing.T) {
	for name, tc := range map[string]struct {
		damage func(t *testing.T, log *auditlogtest.Log, names []string)
		found  string
		want   string // a part of the error; empty if nothing is missing
	}{
		"whole": {func(*testing.T, *auditlogtest.Log, []string) {}, numbers(1, 15), ""},
		"no first file": {func(t *testing.T, _ *auditlogtest.Log, names []string) {
			remove(t, names[0])
		}, numbers(6, 15), "lines 1 to 5 are missing"},
		"no second file": {func(t *testing.T, _ *auditlogtest.Log, names []string) {
			remove(t, names[1])
		}, numbers(1, 5) + " " + numbers(11, 15), "lines 6 to 10 are missing"},
		"no rotated file": {func(t *testing.T, _ *auditlogtest.Log, names []string) {
			remove(t, names[0])
			remove(t, names[1])
		}, numbers(11, 15), "lines 1 to 10 are missing"},
		"a damaged line": {func(t *testing.T, _ *auditlogtest.Log, names []string) {
			replace(t, names[1], `{"Seq":8,`, `<"Seq":8,`)
		}, numbers(1, 7) + " " + numbers(9, 15), "line 8 is missing or damaged"},
		"a truncated file": {func(t *testing.T, _ *auditlogtest.Log, names []string) {
			truncate(t, names[1])
		}, numbers(1, 5) + " " + numbers(11, 15), "lines 6 to 10 are missing"},
	} {
		t.Run(name, func(t *testing.T) {
			log, names, _ := auditlogtest.NewRotated(t)
			tc.damage(t, log, names)
			got, err := searchLog(t, log.Path)
			if got != tc.found {
				t.Errorf("SearchLog: got the lines %s, want %s", got, tc.found)
			}
			if got := lastLines(t, log.Path, 100); got != tc.found {
				t.Errorf("OpenTail: got the lines %s, want %s", got, tc.found)
			}
			for door, err := range map[string]error{"SearchLog": err, "Gaps": tailGaps(t, log.Path, 100)} {
				if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%s: got %v, want %q", door, err, tc.want)
				}
			}
			if _, err := auditlog.VerifyLog(t.Context(), audit.Verifier{Key: log.Key()}, log.Path); (err == nil) != (tc.want == "") {
				t.Errorf("VerifyLog: got %v, want %q", err, tc.want)
			}
			if err := tailGaps(t, log.Path, 5); err != nil {
				t.Errorf("Gaps of the last 5 lines: got %v, want nil", err)
			}
		})
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, name string) {
	t.Helper()
	if err := os.Truncate(name, 0); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, name, old, replacement string) {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte(old)) {
		t.Fatalf("%s lacks %s", name, old)
	}
	if err := os.WriteFile(name, bytes.Replace(content, []byte(old), []byte(replacement), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestNamedFiles searches named files. Lines before the first one may be missing, but no line after it.
func TestNamedFiles(t *testing.T) {
	log, names, _ := auditlogtest.NewRotated(t)
	for _, tc := range []struct {
		names []string
		want  string
	}{
		{[]string{log.Path}, ""},
		{names, ""},
		{[]string{names[1], log.Path}, ""},
		{[]string{log.Path, names[0], names[1]}, ""}, // as a shell orders audit.log*
		{[]string{names[0], log.Path}, "lines 6 to 10 are missing"},
	} {
		var b bytes.Buffer
		_, err := auditlog.Search(t.Context(), tc.names, new(auditlog.Filter), auditlog.NewWriter(&b, auditlog.JSON))
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Search of %v: got %v, want %q", tc.names, err, tc.want)
		}
	}
}

// TestDeleted reads a log whose oldest files retention has deleted.
func TestDeleted(t *testing.T) {
	log, names, ends := auditlogtest.NewRotated(t)
	for i, name := range names {
		log.Delete(name, ends[i])
		log.Requests(1)
	}
	first := int(ends[1].Seq) + 1
	last := int(log.Head.Seq)
	if got, err := searchLog(t, log.Path); got != numbers(first, last) || err != nil {
		t.Errorf("SearchLog: got the lines %s, %v, want %s", got, err, numbers(first, last))
	}
	if err := tailGaps(t, log.Path, 100); err != nil {
		t.Errorf("Gaps: got %v, want nil", err)
	}
	result, err := auditlog.VerifyLog(t.Context(), audit.Verifier{Key: log.Key()}, log.Path)
	if err != nil || result.Deleted == nil || *result.Deleted != ends[1] {
		t.Fatalf("VerifyLog: got %+v, %v, want the deletion of the lines up to %d", result, err, ends[1].Seq)
	}
	if got, want := auditlog.Summary(result), "; lines 1 to 10 were deleted by retention; verification begins at line 11"; !strings.Contains(got, want) {
		t.Errorf("Summary: got %q, want %q in it", got, want)
	}
	result.Restored = []audit.Head{{Seq: 12}}
	if got := auditlog.Summary(result); strings.Contains(got, "earlier log") {
		t.Errorf("Summary of a log with a later restoration: got %q, want nothing about an earlier log", got)
	}
	// The event names another line.
	other, _, _ := auditlogtest.NewRotated(t)
	other.Events(audit.Event{Kind: audit.KindDeleted, Deleted: &audit.Deletion{Head: audit.Head{Seq: 10, Hash: strings.Repeat("1", 64)}}})
	other.Checkpoint()
	files, err := auditlog.Files(other.Path)
	if err != nil {
		t.Fatal(err)
	}
	remove(t, files[0])
	remove(t, files[1])
	if _, err := searchLog(t, other.Path); err == nil || !strings.Contains(err.Error(), "lines 1 to 10 are missing") {
		t.Errorf("SearchLog after a deletion of another line: got %v, want \"lines 1 to 10 are missing\"", err)
	}
}

// TestCompressed reads a log with compressed files, in every combination. The results are those of the
// same log without compression.
func TestCompressed(t *testing.T) {
	for compressed := range 4 {
		log, names, _ := auditlogtest.NewRotated(t)
		v := audit.Verifier{Key: log.Key()}
		want, err := auditlog.VerifyLog(t.Context(), v, log.Path)
		if err != nil {
			t.Fatal(err)
		}
		var wantCSV, gotCSV bytes.Buffer
		if _, err := auditlog.SearchLog(t.Context(), log.Path, new(auditlog.Filter), auditlog.NewWriter(&wantCSV, auditlog.CSV)); err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			if compressed&(1<<i) != 0 {
				names[i] = log.Compress(name)
			}
		}
		got, err := auditlog.VerifyLog(t.Context(), v, log.Path)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("VerifyLog of %v: got %v, (-want +got):\n%s", names, err, diff)
		}
		if got, err := auditlog.Verify(t.Context(), v, append(slices.Clone(names), log.Path)); err != nil || got.Lines != want.Lines {
			t.Errorf("Verify of %v: got %+v, %v, want %+v", names, got, err, want)
		}
		_, err = auditlog.SearchLog(t.Context(), log.Path, new(auditlog.Filter), auditlog.NewWriter(&gotCSV, auditlog.CSV))
		if diff := cmp.Diff(wantCSV.String(), gotCSV.String()); diff != "" || err != nil {
			t.Errorf("SearchLog of %v: got %v, (-want +got):\n%s", names, err, diff)
		}
		for _, n := range []int{1, 5, 7, 12, 15, 100} {
			if got, want := lastLines(t, log.Path, n), numbers(max(1, 16-n), 15); got != want {
				t.Errorf("the last %d lines of %v: got %s, want %s", n, names, got, want)
			}
		}
	}
}

// TestCompressedDamaged cuts off a compressed file. Every function returns an error that names it and
// the missing lines.
func TestCompressedDamaged(t *testing.T) {
	log, names, _ := auditlogtest.NewRotated(t)
	name := log.Compress(names[1])
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content[:len(content)/4], 0o600); err != nil {
		t.Fatal(err)
	}
	_, searchErr := searchLog(t, log.Path)
	_, verifyErr := auditlog.VerifyLog(t.Context(), audit.Verifier{Key: log.Key()}, log.Path)
	_, _, tailErr := auditlog.OpenTail(log.Path, 10)
	for door, err := range map[string]error{"SearchLog": searchErr, "VerifyLog": verifyErr, "OpenTail": tailErr} {
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "cut off or damaged") {
			t.Errorf("%s: got %v, want an error about %s", door, err, name)
		}
	}
	if !strings.Contains(searchErr.Error(), "to 10 are missing") {
		t.Errorf("SearchLog: got %v, want the missing lines", searchErr)
	}
}

// TestManyFiles verifies and searches a log with more files than this process may open.
func TestManyFiles(t *testing.T) {
	log := auditlogtest.New(t)
	for n := range 300 {
		log.Requests(1)
		log.Rotate(n + 1)
	}
	log.Checkpoint()
	limitFiles(t, 100)
	if got, err := searchLog(t, log.Path); got != numbers(1, 301) || err != nil {
		t.Errorf("SearchLog: got the lines %s, %v", got, err)
	}
	if result, err := auditlog.VerifyLog(t.Context(), audit.Verifier{Key: log.Key()}, log.Path); err != nil || result.Lines != 301 {
		t.Errorf("VerifyLog: got %+v, %v, want 301 lines", result, err)
	}
}

// limitFiles limits the number of files that this process may open.
func limitFiles(t *testing.T, n uint64) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limited := limit
	limited.Cur = n
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limited); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	})
}
