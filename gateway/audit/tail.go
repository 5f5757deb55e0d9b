package audit

import (
	"bytes"
	"io"
)

// firstTail is the number of bytes that lastLines first reads from a file's end.
const firstTail = 64 << 10

// LastLines returns the last n lines of a file of the given size, or fewer if it has fewer. end is
// the offset after the last newline, where a line may be incomplete. LastLines reads only as much
// of the file as it needs, and verifies nothing.
func LastLines(r io.ReaderAt, size int64, n int) (lines []Line, end int64, err error) {
	last, end, err := lastLines(r, size, n)
	for _, line := range last {
		lines = append(lines, line.Line)
	}
	return lines, end, err
}

// A textLine is a line with its text, whose hash is in the next line.
type textLine struct {
	Line
	text []byte
}

// lastLines doubles the size that it reads until it has n lines.
func lastLines(r io.ReaderAt, size int64, n int) (lines []textLine, end int64, err error) {
	for length := int64(firstTail); ; length *= 2 {
		start := max(0, size-length)
		text, err := WholeLines(r, start, size-start)
		if err != nil {
			return nil, 0, err
		}
		lines = nil
		for lineText := range bytes.Lines(text) { // a partial line at start does not parse
			lineText = bytes.TrimSuffix(lineText, []byte{'\n'})
			if line, ok := parseLine(lineText); ok {
				lines = append(lines, textLine{line, lineText})
			}
		}
		if start == 0 || len(text) > 0 && len(lines) >= n {
			return lines[max(0, len(lines)-n):], start + int64(len(text)), nil
		}
	}
}

// WholeLines reads at most size bytes from an offset of a file and returns them up to the last
// newline.
func WholeLines(r io.ReaderAt, offset, size int64) ([]byte, error) {
	text := make([]byte, size)
	n, err := r.ReadAt(text, offset)
	if err == io.EOF { // the file may still grow
		err = nil
	}
	return text[:bytes.LastIndexByte(text[:n], '\n')+1], err
}
