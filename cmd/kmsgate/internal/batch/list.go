package batch

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
)

// A line is one line of a list or of an output.
type line struct {
	number int    // from 1 on
	text   []byte // without its end; nil if it has more than MaxLine bytes
	hash   string // the SHA-256 of the whole line without its end, in hexadecimal
}

// A lineReader reads lines, and hashes all that it reads.
type lineReader struct {
	r      *bufio.Reader
	number int
	all    hash.Hash
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, MaxLine), all: sha256.New()}
}

// next returns the next line, and io.EOF after the last. The last line needs no end.
func (l *lineReader) next() (line, error) {
	text, sum, size := []byte{}, sha256.New(), 0
	for {
		part, err := l.r.ReadSlice('\n')
		l.all.Write(part)
		content, ended := bytes.CutSuffix(part, []byte("\n"))
		sum.Write(content)
		size += len(content)
		if text = append(text, content...); size > MaxLine {
			text = nil
		}
		switch {
		case ended, errors.Is(err, io.EOF) && size > 0:
			l.number++
			return line{l.number, text, hex.EncodeToString(sum.Sum(nil))}, nil
		case errors.Is(err, bufio.ErrBufferFull), err == nil:
		default:
			return line{}, err
		}
	}
}

// sum returns the SHA-256 of all that was read, in hexadecimal.
func (l *lineReader) sum() string { return hex.EncodeToString(l.all.Sum(nil)) }
