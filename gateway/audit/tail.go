package audit

import (
	"bytes"
	"io"
)

// firstTail is how many bytes lastLines reads at first, from a file's end.
const firstTail = 64 << 10

// LastLines returns the last n lines of a file of some size, fewer if it has no
// more, and the offset of what follows its last newline: that may become a line. It
// reads no more of the file than it needs. Nothing is verified.
func LastLines(r io.ReaderAt, size int64, n int) (lines []Line, end int64, err error) {
	last, end, err := lastLines(r, size, n)
	for _, line := range last {
		lines = append(lines, line.Line)
	}
	return lines, end, err
}

// A textLine is a line with the text that the next line's hash is of.
type textLine struct {
	Line
	text []byte
}

// lastLines reads twice as much each time, until there are n lines.
func lastLines(r io.ReaderAt, size int64, n int) (lines []textLine, end int64, err error) {
	for length := int64(firstTail); ; length *= 2 {
		start := max(0, size-length)
		text, err := WholeLines(r, start, size-start)
		if err != nil {
			return nil, 0, err
		}
		lines = nil
		for one := range bytes.Lines(text) { // the half of a line at start is not one
			one = bytes.TrimSuffix(one, []byte{'\n'})
			if line, ok := parseLine(one); ok {
				lines = append(lines, textLine{line, one})
			}
		}
		if start == 0 || len(text) > 0 && len(lines) >= n {
			return lines[max(0, len(lines)-n):], start + int64(len(text)), nil
		}
	}
}

// WholeLines reads from an offset of a file as much as it has, at most size bytes,
// and returns that up to the last newline.
func WholeLines(r io.ReaderAt, offset, size int64) ([]byte, error) {
	text := make([]byte, size)
	n, err := r.ReadAt(text, offset)
	if err == io.EOF { // the file has no more, for now
		err = nil
	}
	return text[:bytes.LastIndexByte(text[:n], '\n')+1], err
}
