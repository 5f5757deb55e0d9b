package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/kmsgate/kmsgate/internal/printable"
)

// Progress returns a reader of a file that shows how far it is, once a second, if w is a
// terminal. title names the work.
func Progress(w io.Writer, title string, f *os.File) io.Reader {
	info, err := f.Stat()
	if err != nil || TerminalWidth(w) == 0 {
		return f
	}
	return &progress{w: w, title: printable.Text(title), file: f, size: info.Size(), shown: time.Now()}
}

type progress struct {
	w     io.Writer
	title string
	file  *os.File
	size  int64 // 0 if it is not known
	read  int64
	shown time.Time
	shows bool // a line on the terminal has no end yet
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.file.Read(b)
	p.read += int64(n)
	if err != nil && p.shows {
		fmt.Fprintln(p.w)
	}
	if err != nil || time.Since(p.shown) < time.Second {
		return n, err
	}
	p.shown, p.shows = time.Now(), true
	if p.size > 0 {
		fmt.Fprintf(p.w, "\r%s: %d of %d MB", p.title, p.read>>20, p.size>>20)
	} else {
		fmt.Fprintf(p.w, "\r%s: %d MB", p.title, p.read>>20)
	}
	return n, err
}
