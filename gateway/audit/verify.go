package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A Proof is what Verify found.
type Proof struct {
	Lines uint64 // audit lines, torn ones not counted
	Seq   uint64 // of the last line
	Hash  string // of the last line: the Prev of the next one
}

// maxLine bounds a line's length; entries are far shorter.
const maxLine = 1 << 20

// splitLines is bufio.ScanLines, but for a carriage return: that is part of a
// line like every other byte.
func splitLines(data []byte, atEOF bool) (advance int, line []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// Verify reads a log from its first line on. Its error names the first line, in
// the file's own counting, at which the chain is broken; the Proof is of the
// lines before it.
func Verify(r io.Reader) (Proof, error) {
	proof := Proof{Hash: zeroHash}
	var torn string // the hash of a line that is no entry, "" if the last one was
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxLine)
	in.Split(splitLines)
	for n := 1; in.Scan(); n++ {
		line := in.Bytes()
		var got struct {
			link
			Entry
		}
		if err := json.Unmarshal(line, &got); err != nil || got.Seq == 0 {
			if torn != "" {
				return proof, fmt.Errorf("line %d: a second line in a row is no audit line", n)
			}
			torn = hashOf(line)
			continue
		}
		want := link{proof.Seq + 1, proof.Hash}
		if torn != "" {
			want.Prev = torn
		}
		switch {
		case got.link != want:
			return proof, fmt.Errorf("line %d: it says Seq %d after %.16s…, but follows Seq %d with %.16s…: a line was changed, removed or moved", n, got.Seq, got.Prev, want.Seq-1, want.Prev)
		case got.Recovered != (torn != ""):
			return proof, fmt.Errorf("line %d: a line was torn and not recovered, or recovered and not torn", n)
		}
		torn = ""
		proof = Proof{proof.Lines + 1, got.Seq, hashOf(line)}
	}
	if err := in.Err(); err != nil {
		return proof, fmt.Errorf("after line with Seq %d: %w", proof.Seq, err)
	}
	if torn != "" {
		return proof, errors.New("the last line is no audit line")
	}
	return proof, nil
}
