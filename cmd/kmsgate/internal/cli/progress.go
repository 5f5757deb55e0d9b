package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/kmsgate/kmsgate/internal/printable"
)

// A StatusLine is a line on a terminal that says how far the work is. It is replaced once a second at
// most, and nothing is written if the writer is not a terminal. It is safe for concurrent use.
type StatusLine struct {
	w io.Writer // nil if it is not a terminal

	mu    sync.Mutex
	shown time.Time // guarded by mu
	width int       // guarded by mu; of the line that has no end yet
}

// NewStatusLine returns a line that is not shown yet.
func NewStatusLine(w io.Writer) *StatusLine {
	if TerminalWidth(w) == 0 {
		w = nil
	}
	return &StatusLine{w: w, shown: time.Now()}
}

// Show replaces the line. Its text must be printable.
func (l *StatusLine) Show(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil || time.Since(l.shown) < time.Second {
		return
	}
	text := fmt.Sprintf(format, args...)
	width := utf8.RuneCountInString(text)
	fmt.Fprintf(l.w, "\r%s%s", text, strings.Repeat(" ", max(l.width-width, 0)))
	l.shown, l.width = time.Now(), width
}

// End ends the line, if there is one.
func (l *StatusLine) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.width > 0 {
		l.width = 0
		fmt.Fprintln(l.w)
	}
}

// Progress returns a reader of a file that shows how far it is on a [StatusLine] of w. title names the
// work.
func Progress(w io.Writer, title string, f *os.File) io.Reader {
	info, err := f.Stat()
	if err != nil {
		return f
	}
	return &progress{line: NewStatusLine(w), title: printable.Text(title), file: f, size: info.Size()}
}

type progress struct {
	line  *StatusLine
	title string
	file  *os.File
	size  int64 // 0 if it is not known
	read  int64
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.file.Read(b)
	p.read += int64(n)
	switch {
	case err != nil:
		p.line.End()
	case p.size > 0:
		p.line.Show("%s: %d of %d MB", p.title, p.read>>20, p.size>>20)
	default:
		p.line.Show("%s: %d MB", p.title, p.read>>20)
	}
	return n, err
}
