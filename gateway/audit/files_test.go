package audit_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// gzipped returns content as one member of a gzip file.
func gzipped(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestFiles lists a log with compressed files, and files of other names.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"audit.log", "audit.log.0000000000000900", "audit.log.0000000000000001.gz",
		"audit.log.0000000000000050.gz", "audit.log.0000000000000050", // gzip is running
		"audit.log.0000000000000100.20261122T040000.000000001", "audit.log.0000000000000100.gz",
		"audit.log.0000000000000200.20261122T040000.000000001.gz", "audit.log.0000000000000200",
		"audit.log.gz", "audit.log.1", "audit.log.0000000000000001.bz2", "audit.log.lost-20261122T040000.000000001",
		"other.log.0000000000000001",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := audit.Files(filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, strings.TrimPrefix(filepath.Base(f), "audit.log"))
	}
	want := []string{".0000000000000001.gz", ".0000000000000050", ".0000000000000100.gz",
		".0000000000000100.20261122T040000.000000001", ".0000000000000200",
		".0000000000000200.20261122T040000.000000001.gz", ".0000000000000900", ""}
	if !slices.Equal(got, want) {
		t.Errorf("Files: got %q, want %q", got, want)
	}
}

// TestCompressed verifies and continues a log whose rotated files are compressed. The results are
// those of the same log without compression.
func TestCompressed(t *testing.T) {
	b := build(t)
	b.requests(5).checkpoint()
	expected := b.head
	first := b.rotate()
	b.requests(5).checkpoint()
	second := b.rotate()
	b.requests(2).checkpoint().end()
	want, err := verify(t, b.path)
	if err != nil {
		t.Fatal(err)
	}
	compress(t, first)
	compress(t, second)
	got, err := verify(t, b.path)
	if !reflect.DeepEqual(got, want) || err != nil {
		t.Errorf("Verify of the compressed log: got %+v, %v, want %+v", got, err, want)
	}
	cfg := config(b.path)
	cfg.Expect = expected
	l := openConfig(t, cfg)
	missing, err := l.Missing(3, []string{"r-1", "r-4", "r-9", "r-13", "r-99"})
	if err != nil || !slices.Equal(missing, []string{"r-1", "r-99"}) {
		t.Errorf("Missing: got %v, %v, want r-1 and r-99", missing, err)
	}
	closeLog(t, l)
	if result, err := verify(t, b.path); err != nil || result.First.Seq != 1 {
		t.Errorf("Verify of the continued log: got %+v, %v, want all lines", result, err)
	}
}

// TestCompressedEnd continues a log whose last file was compressed before the next one was begun.
func TestCompressedEnd(t *testing.T) {
	for name, begin := range map[string]func(path string) error{
		"no current file":       func(string) error { return nil },
		"an empty current file": func(path string) error { return os.WriteFile(path, nil, 0o600) },
	} {
		b := build(t)
		b.requests(5).checkpoint()
		expected := b.head
		b.requests(1)
		last := compress(t, b.rotate())
		if err := begin(b.path); err != nil {
			t.Fatal(err)
		}
		cfg := config(b.path)
		cfg.Expect = expected
		l := openConfig(t, cfg)
		appendLines(t, l, 1)
		closeLog(t, l)
		if result, err := verify(t, b.path); err != nil || result.Lines != 10 || !isThere(t, last) {
			t.Errorf("%s: got %+v, %v, want 10 lines and the compressed file", name, result, err)
		}
		if text := string(read(t, b.path)); !strings.Contains(text, `"Unwitnessed":1`) {
			t.Errorf("%s: the log lacks an unwitnessed event:\n%s", name, text)
		}
	}
	b := build(t)
	b.requests(5)
	b.text.WriteString(`{"Seq":6,"Pre`)
	compress(t, b.rotate())
	if l, err := audit.Open(config(b.path)); err == nil || !strings.Contains(err.Error(), "gzip -d") {
		t.Errorf("Open after an incomplete line in a compressed file: got %v, want advice", err)
		if err == nil {
			closeLog(t, l)
		}
	}
}

// TestCompressedFirstLineTorn opens a log after a crash tore the first line after a compressed file.
func TestCompressedFirstLineTorn(t *testing.T) {
	path := newLog(t, 6)
	first := path + ".0000000000000001"
	if err := os.Rename(path, first); err != nil {
		t.Fatal(err)
	}
	compress(t, first)
	if err := os.WriteFile(path, []byte(`{"Seq":9,"Pre`), 0o600); err != nil {
		t.Fatal(err)
	}
	checkContinues(t, path, 0)
	if result, err := verify(t, path); err != nil || result.Lines < 10 {
		t.Errorf("got %+v, %v, want at least 10 lines", result, err)
	}
}

// TestCompressedDamaged verifies a log with a compressed file that is cut off or changed at each of
// many places.
func TestCompressedDamaged(t *testing.T) {
	b := build(t)
	b.requests(20).checkpoint()
	plain := b.rotate()
	b.requests(1).checkpoint().end()
	whole, name := gzipped(t, read(t, plain)), plain+".gz"
	remove(t, plain)
	check := func(damage string, offset int, content []byte) {
		t.Helper()
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		result, err := verify(t, b.path)
		if err == nil || !strings.Contains(err.Error(), filepath.Base(name)) {
			t.Errorf("%s at byte %d: got %+v, %v, want an error that names the file", damage, offset, result, err)
		}
	}
	for offset := 0; offset < len(whole); offset += 7 {
		check("cut off", offset, whole[:offset])
	}
	// The headers of gzip have bytes without a meaning for the content, such as the time.
	for offset := 20; offset < len(whole)/3; offset += 7 {
		damaged := bytes.Clone(whole)
		damaged[offset] ^= 0x10
		check("damaged", offset, damaged)
	}
	check("text added", len(whole), append(bytes.Clone(whole), "more"...))
}

// TestDecompress reads a file without members, and returns errors of reading unchanged.
func TestDecompress(t *testing.T) {
	if _, err := io.ReadAll(audit.Decompress("a.gz", strings.NewReader(""))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an empty file: got %v, want io.ErrUnexpectedEOF", err)
	}
	if text, err := io.ReadAll(audit.Decompress("a", strings.NewReader("text"))); string(text) != "text" || err != nil {
		t.Errorf("a file that is not compressed: got %q, %v, want its content", text, err)
	}
	reason := errors.New("the disk is broken")
	_, err := io.ReadAll(audit.Decompress("a.gz", io.MultiReader(bytes.NewReader(gzipped(t, []byte("text"))[:12]), failing{reason})))
	if !errors.Is(err, reason) || strings.Contains(err.Error(), "damaged") {
		t.Errorf("a disk that fails: got %v, want %v", err, reason)
	}
}

// A failing reader returns an error from every Read.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
