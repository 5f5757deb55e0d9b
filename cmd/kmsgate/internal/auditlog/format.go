package auditlog

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/gateway/audit"
)

// A Format is how lines are written.
type Format string

const (
	Table Format = "table" // a row each, for people
	JSON  Format = "jsonl" // a JSON object each, as in the log
	CSV   Format = "csv"   // a row each with all fields, for a spreadsheet
)

// A Writer writes lines of the audit log, each as it comes. What it has written is
// complete after Flush.
type Writer struct {
	out    *bufio.Writer
	encode func(line audit.Line) ([]byte, error)
}

// NewWriter writes the names of the columns, where the format has some. Flush
// returns the error of that.
func NewWriter(w io.Writer, format Format) *Writer {
	out := &Writer{out: bufio.NewWriter(w)}
	switch format {
	case Table:
		out.encode = lineRow
		out.out.Write(pad(func(c lineColumn) string { return c.name })) // Flush returns the error
	case CSV:
		columns := csvColumns()
		out.encode = func(line audit.Line) ([]byte, error) { return lineCSV(line, columns) }
		csv.NewWriter(out.out).WriteAll([][]string{columns})
	default:
		out.encode = lineJSON
	}
	return out
}

// Flush writes what is buffered, and returns the first error of all writing.
func (w *Writer) Flush() error { return w.out.Flush() }

// Write writes a line.
func (w *Writer) Write(line audit.Line) error {
	text, err := w.encode(line)
	if err != nil {
		return err
	}
	_, err = w.out.Write(text)
	return err
}

// lineJSON writes a line as it is in the log.
func lineJSON(line audit.Line) ([]byte, error) {
	text, err := json.Marshal(line)
	return append(printable.JSON(text), '\n'), err
}

// A lineColumn is what a table shows of lines. Its width is fixed: lines are
// written before it is known what others come.
type lineColumn struct {
	name  string
	width int
	cell  func(line audit.Line) string
}

func lineColumns() []lineColumn {
	return []lineColumn{
		{"Time", 20, func(l audit.Line) string { return l.Time().UTC().Format(time.RFC3339) }},
		{"User", 14, func(l audit.Line) string { return entryOf(l).Principal }},
		{"Action", 20, subject},
		{"Of", 36, func(l audit.Line) string { return cmp.Or(entryOf(l).Alias, entryOf(l).KeyId, entryOf(l).Subject) }},
		{"Code", 22, outcome},
		{"Source", 15, sourceOf},
		{"RequestId", 0, func(l audit.Line) string { return entryOf(l).RequestId }},
	}
}

func lineRow(line audit.Line) ([]byte, error) {
	return pad(func(c lineColumn) string { return printable.Text(cmp.Or(c.cell(line), "-")) }), nil
}

func pad(cell func(c lineColumn) string) []byte {
	var b []byte
	for _, c := range lineColumns() {
		b = fmt.Appendf(b, "%-*s  ", c.width, cell(c))
	}
	return append(bytes.TrimRight(b, " "), '\n')
}

// entryOf returns what a line says of a request, nothing for a line of the log itself.
func entryOf(l audit.Line) audit.Entry {
	if l.Entry == nil {
		return audit.Entry{}
	}
	return *l.Entry
}

// eventOf returns what a line says of the log itself, nothing for one of a request.
func eventOf(l audit.Line) audit.Event {
	if l.Event == nil {
		return audit.Event{}
	}
	return *l.Event
}

// subject is what a line is about: an operation, or the log itself.
func subject(l audit.Line) string {
	if l.Event != nil {
		return l.Event.String()
	}
	return l.Entry.Action
}

// sourceOf is where a request came from, or the last of those that a line counts.
func sourceOf(l audit.Line) string { return cmp.Or(entryOf(l).Source, eventOf(l).Source) }

// outcome is the code of an answer, ok for success.
func outcome(l audit.Line) string {
	e := entryOf(l)
	if e.Code == "" && e.RequestId != "" {
		return "ok"
	}
	return e.Code
}

// csvColumns returns the names of all fields that lines can have. Kind is the last,
// as a newcomer: the columns before it stay where they were.
func csvColumns() []string {
	names := []string{"Seq", "Prev"}
	for _, f := range slices.Concat(reflect.VisibleFields(reflect.TypeFor[audit.Entry]()), reflect.VisibleFields(reflect.TypeFor[audit.Event]())) {
		if f.IsExported() && f.Name != "Kind" && !slices.Contains(names, f.Name) {
			names = append(names, f.Name)
		}
	}
	return append(names, "Kind")
}

// lineCSV writes some fields of a line for a spreadsheet.
func lineCSV(line audit.Line, columns []string) ([]byte, error) {
	var cells []string
	for _, name := range columns {
		text, err := csvCell(fieldOf(line, name))
		if err != nil {
			return nil, err
		}
		cells = append(cells, text)
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	err := w.Write(cells)
	w.Flush()
	return b.Bytes(), errors.Join(err, w.Error())
}

// fieldOf returns a field by its name; the zero Value if the line has no such field.
func fieldOf(line audit.Line, name string) reflect.Value {
	content := reflect.ValueOf(line.Entry)
	switch {
	case name == "Seq" || name == "Prev":
		content = reflect.ValueOf(&line)
	case line.Event != nil:
		content = reflect.ValueOf(line.Event)
	}
	return content.Elem().FieldByName(name)
}

// csvCell writes a field as JSON has it, but without quotes, and nothing for
// what JSON leaves out.
func csvCell(v reflect.Value) (string, error) {
	if !v.IsValid() || v.IsZero() {
		return "", nil
	}
	text, err := json.Marshal(v.Interface())
	s := string(text)
	if v := ""; json.Unmarshal(text, &v) == nil {
		s = v
	}
	return inert(printable.Text(s)), err
}

// inert keeps a spreadsheet from taking a value for a formula, which it would
// calculate: one could send what is in the file elsewhere.
func inert(s string) string {
	if begin := strings.TrimLeft(s, " "); begin != "" && strings.ContainsRune("=+-@＝＋－＠", []rune(begin)[0]) {
		return "'" + s
	}
	return s
}
