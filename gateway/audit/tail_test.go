package audit_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A countingReader counts the bytes that are read from it.
type countingReader struct {
	*bytes.Reader
	n int
}

func (r *countingReader) ReadAt(p []byte, offset int64) (int, error) {
	n, err := r.Reader.ReadAt(p, offset)
	r.n += n
	return n, err
}

// TestLastLines checks that LastLines skips text that is not a line and reads only as much as it
// needs.
func TestLastLines(t *testing.T) {
	line := func(n int) string {
		return fmt.Sprintf(`{"Seq":%d,"Prev":"","Time":"2026-11-22T04:00:00Z","RequestId":"%s"}`+"\n",
			n, strings.Repeat("r", 200))
	}
	var text strings.Builder
	text.WriteString(strings.Repeat("not a line\n", 1<<16))
	for n := range 2000 {
		text.WriteString(line(n + 1))
	}
	text.WriteString("torn\n" + line(2001))
	whole := text.Len()
	text.WriteString(line(2002)[:30])
	for n, wantFirst := range map[int]uint64{0: 0, 1: 2001, 10: 1992, 1500: 502, 2001: 1, 5000: 1} {
		r := &countingReader{Reader: bytes.NewReader([]byte(text.String()))}
		lines, end, err := audit.LastLines(r, r.Size(), n)
		if err != nil || end != int64(whole) || len(lines) != min(n, 2001) {
			t.Fatalf("last %d lines: got %d lines, end %d, %v, want %d lines, end %d", n, len(lines), end, err,
				min(n, 2001), whole)
		}
		if n == 0 {
			continue
		}
		if lines[0].Seq != wantFirst || lines[len(lines)-1].Seq != 2001 {
			t.Errorf("last %d lines: got %d to %d, want %d to 2001", n, lines[0].Seq, lines[len(lines)-1].Seq,
				wantFirst)
		}
		if n <= 10 && r.n > 70_000 {
			t.Errorf("last %d lines: read %d bytes, want at most 70000", n, r.n)
		}
	}
	failing := func() ([]audit.Line, int64, error) {
		f, err := os.Open(t.TempDir()) // reading a directory fails
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return audit.LastLines(f, 100, 1)
	}
	if _, _, err := failing(); err == nil {
		t.Error("a read error: got nil, want an error")
	}
	if lines, end, err := audit.LastLines(strings.NewReader(""), 0, 3); len(lines) != 0 || end != 0 || err != nil {
		t.Errorf("an empty file: got %v, %d, %v, want no lines, 0, nil", lines, end, err)
	}
}

// TestFirstLineTorn opens a log after a crash tore the first line of a file. The log must continue
// after the last line of the previous file, with or without that line's newline.
func TestFirstLineTorn(t *testing.T) {
	for _, newline := range []bool{true, false} {
		path := newLog(t, 6)
		first := path + ".0000000000000001"
		if err := os.Rename(path, first); err != nil {
			t.Fatal(err)
		}
		if !newline {
			if err := os.Truncate(first, int64(len(read(t, first))-1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, []byte(`{"Seq":9,"Pre`), 0o600); err != nil {
			t.Fatal(err)
		}
		checkContinues(t, path, 0)
		if result, err := verify(t, path); err != nil || result.Lines < 10 {
			t.Errorf("with newline %v: got %+v, %v, want at least 10 lines", newline, result, err)
		}
	}
}
