package audit

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// compressedSuffix ends the name of a rotated file that an operator has compressed with gzip.
const compressedSuffix = ".gz"

// rotatedSuffix matches the suffix of a rotated file's name.
var rotatedSuffix = regexp.MustCompile(`^\.[0-9]{16}(\.[0-9]{8}T[0-9.]+)?(\.gz)?$`)

// Files returns the existing files of the log at path, the oldest first and path itself last. A
// rotated file can be compressed: PATH.N.gz. While both PATH.N and PATH.N.gz exist, Files returns
// only PATH.N, because gzip removes it once PATH.N.gz is complete.
func Files(path string) ([]string, error) {
	all, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var files []string
	current := false
	for _, f := range all {
		suffix, ok := strings.CutPrefix(f.Name(), filepath.Base(path))
		switch {
		case ok && suffix == "":
			current = true
		case ok && rotatedSuffix.MatchString(suffix):
			files = append(files, path+suffix)
		}
	}
	// The names without .gz are ordered by the number of their first line. PATH.N precedes
	// PATH.N.gz, and is the one that CompactFunc keeps.
	slices.SortFunc(files, func(a, b string) int {
		if a, b := uncompressed(a), uncompressed(b); a != b {
			return strings.Compare(a, b)
		}
		return strings.Compare(a, b)
	})
	files = slices.CompactFunc(files, func(a, b string) bool { return uncompressed(a) == uncompressed(b) })
	if current {
		files = append(files, path)
	}
	return files, nil
}

func rotatedName(path string, first uint64) string { return fmt.Sprintf("%s.%016d", path, first) }

// newRotatedName returns a name for a rotated file, which neither a file nor a compressed file has.
func newRotatedName(path string, first uint64) string {
	name := rotatedName(path, first)
	if exists(name) || exists(name+compressedSuffix) {
		name += "." + time.Now().UTC().Format("20060102T150405.000000000")
	}
	return name
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// uncompressed returns the name that a file has before its compression.
func uncompressed(name string) string { return strings.TrimSuffix(name, compressedSuffix) }

func isCompressed(name string) bool { return strings.HasSuffix(name, compressedSuffix) }

// Decompress returns a reader of the lines in a file of a log. content is the file's content. If
// name ends with .gz, Decompress reads the gzip members in content one after the other, and needs
// about 100 KB of memory. A compressed file that is cut off or damaged is an error, after the lines
// before that place.
func Decompress(name string, content io.Reader) io.Reader {
	if !isCompressed(name) {
		return content
	}
	return &decompressor{content: content}
}

// A decompressor reads nothing before its first Read.
type decompressor struct {
	content io.Reader
	gzip    *gzip.Reader // nil before the first Read
}

func (d *decompressor) Read(p []byte) (int, error) {
	if d.gzip == nil {
		reader, err := gzip.NewReader(bufio.NewReaderSize(d.content, 64<<10))
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // an empty file is not a compressed one
		}
		if err != nil {
			return 0, explainDamage(err)
		}
		d.gzip = reader
	}
	n, err := d.gzip.Read(p)
	return n, explainDamage(err)
}

// explainDamage explains an error that the content causes, and returns all others unchanged.
func explainDamage(err error) error {
	var corrupt flate.CorruptInputError
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) ||
		errors.As(err, &corrupt) {
		return fmt.Errorf("the compressed file is cut off or damaged: %w", err)
	}
	return err
}

// openFile opens a file of a log for reading its lines.
func openFile(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{Decompress(path, f), f}, nil
}

// firstSeq returns the number of a file's first line, or the greatest possible number if the file
// does not begin with one.
func firstSeq(path string) uint64 {
	f, err := openFile(path)
	if err != nil {
		return math.MaxUint64
	}
	defer f.Close()
	s := scanLines(f)
	if s.Scan() {
		if line, ok := parseLine(s.Bytes()); ok {
			return line.Seq
		}
	}
	return math.MaxUint64
}

// lastLine returns the last line of a file with its text, even if it lacks its newline. ok is false
// if the file has no line.
func lastLine(path string) (last textLine, ok bool, err error) {
	f, err := openFile(path)
	if err != nil {
		return textLine{}, false, err
	}
	defer f.Close()
	// At most two texts after the last line are not lines: a torn line and a torn recovered event.
	var texts [3][]byte // the last one first
	s := scanLines(f)
	for s.Scan() {
		if _, isLine := seqOf(s.Bytes()); isLine {
			texts[0], texts[1], texts[2] = append(texts[2][:0], s.Bytes()...), texts[0], texts[1]
		}
	}
	if err := s.Err(); err != nil {
		return textLine{}, false, fmt.Errorf("reading %q: %w", path, err)
	}
	for _, text := range texts {
		if line, ok := parseLine(text); ok {
			return textLine{line, text}, true, nil
		}
	}
	return textLine{}, false, nil
}
