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

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// A Format is an output format for lines.
type Format string

// The output formats.
const (
	Table Format = "table" // a row per line, for people
	JSON  Format = "json"  // a JSON object per line, as in the log
	CSV   Format = "csv"   // a row per line with all fields, for a spreadsheet
)

// A Writer writes lines of the audit log one by one. Its output is complete after Flush.
type Writer struct {
	out    *bufio.Writer
	encode func(line audit.Line) ([]byte, error)
}

// NewWriter returns a Writer. If the format has columns, it writes their names; Flush returns
// an error of that.
func NewWriter(w io.Writer, format Format) *Writer {
	out := &Writer{out: bufio.NewWriter(w)}
	switch format {
	case Table:
		return NewTable(w, 0)
	case CSV:
		columns := csvColumns()
		out.encode = func(line audit.Line) ([]byte, error) { return lineCSV(line, columns) }
		csv.NewWriter(out.out).WriteAll([][]string{columns})
	default:
		out.encode = lineJSON
	}
	return out
}

// NewTable is [NewWriter] for a table that fits a terminal of width columns, at least 80. It
// leaves out the last columns and cuts cells, marked with "…". Width 0 is unlimited.
func NewTable(w io.Writer, width int) *Writer {
	columns := fit(lineColumns(), width)
	out := &Writer{out: bufio.NewWriter(w), encode: func(line audit.Line) ([]byte, error) {
		return pad(columns, func(c lineColumn) string { return printable.Text(cmp.Or(c.cell(line), "-")) }), nil
	}}
	out.out.Write(pad(columns, func(c lineColumn) string { return c.name })) // Flush returns the error
	return out
}

// Flush writes all buffered output, and returns the first error of any write.
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

// lineJSON encodes a line as JSON with the log's fields.
func lineJSON(line audit.Line) ([]byte, error) {
	text, err := json.Marshal(line)
	return append(printable.JSON(text), '\n'), err
}

// A lineColumn is a column of a table. Its width is fixed because rows are written before
// later rows are known.
type lineColumn struct {
	name  string
	width int // of its usual cells
	least int // the width that cells may be cut to; 0 if they may not be cut
	cell  func(line audit.Line) string
}

func lineColumns() []lineColumn {
	return []lineColumn{
		{"Time", 20, 0, func(l audit.Line) string { return l.Time().UTC().Format(time.RFC3339) }},
		{"User", 14, 12, person},
		{"Action", 20, 14, subject},
		{"Object", 36, 12, func(l audit.Line) string { return cmp.Or(entryOf(l).Alias, entryOf(l).KeyId, entryOf(l).Subject) }},
		{"Code", 22, 14, outcome},
		{"Source", 15, 0, sourceOf},
		{"RequestId", 36, 0, func(l audit.Line) string { return entryOf(l).RequestId }},
	}
}

// person returns the principal of a line, with the user on whose behalf it asked. If a line counts
// requests, it is their principal.
func person(l audit.Line) string {
	e := entryOf(l)
	switch {
	case e.OnBehalfOf != "":
		return e.Principal + " for " + e.OnBehalfOf
	case e.AsAdministrator:
		return e.Principal + " as admin"
	}
	return cmp.Or(e.Principal, eventOf(l).Principal)
}

// columnGap is the number of spaces between columns.
const columnGap = 2

// fit returns columns that fit into width. The last two are left out first; then cells are cut.
func fit(columns []lineColumn, width int) []lineColumn {
	for width > 0 && total(columns) > width && len(columns) > 5 {
		columns = columns[:len(columns)-1]
	}
	cut := width > 0 && total(columns) > width
	for i := range columns {
		if !cut || columns[i].least == 0 {
			columns[i].least = 0
			continue
		}
		columns[i].width = columns[i].least
	}
	return columns
}

func total(columns []lineColumn) (width int) {
	for _, c := range columns {
		width += c.width + columnGap
	}
	return width - columnGap
}

func pad(columns []lineColumn, cell func(c lineColumn) string) []byte {
	var b []byte
	for _, c := range columns {
		text := []rune(cell(c))
		if c.least > 0 && len(text) > c.width {
			text = append(text[:c.width-1], '…')
		}
		b = fmt.Appendf(b, "%-*s%*s", c.width, string(text), columnGap, "")
	}
	return append(bytes.TrimRight(b, " "), '\n')
}

// entryOf returns the entry of a request's line, or an empty Entry for a line about the log
// itself.
func entryOf(l audit.Line) audit.Entry {
	if l.Entry == nil {
		return audit.Entry{}
	}
	return *l.Entry
}

// eventOf returns the event of a line about the log itself, or an empty Event for a request's
// line.
func eventOf(l audit.Line) audit.Event {
	if l.Event == nil {
		return audit.Event{}
	}
	return *l.Event
}

// subject returns the name of a line's operation, or a description of its event.
func subject(l audit.Line) string {
	if l.Event != nil {
		return l.Event.String()
	}
	return l.Entry.Action
}

// sourceOf returns the address that a request came from. If a line counts requests, it is the
// address of the last one.
func sourceOf(l audit.Line) string { return cmp.Or(entryOf(l).Source, eventOf(l).Source) }

// These are the codes of lines without an error.
const (
	Success  = "OK"       // the request succeeded, as in the metrics
	Intended = "intended" // the line says what was about to be done
)

// outcome returns the code of a response, or of those that a line counts. It is empty for other
// lines about the log itself.
func outcome(l audit.Line) string {
	e := entryOf(l)
	switch {
	case e.Intended:
		return Intended
	case e.Code == "" && e.RequestId != "":
		return Success
	}
	return cmp.Or(e.Code, eventOf(l).Code)
}

// csvColumns returns the names of all fields that lines can have. Kind is the last column
// because it was added later: the other columns keep their positions.
func csvColumns() []string {
	names := []string{"Seq", "Prev"}
	entry := reflect.VisibleFields(reflect.TypeFor[audit.Entry]())
	event := reflect.VisibleFields(reflect.TypeFor[audit.Event]())
	for _, f := range slices.Concat(entry, event) {
		if f.IsExported() && f.Name != "Kind" && !slices.Contains(names, f.Name) {
			names = append(names, f.Name)
		}
	}
	return append(names, "Kind")
}

// lineCSV encodes the named fields of a line as a CSV row.
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

// fieldOf returns a field of a line by its name. It returns the zero Value if the line has no
// such field.
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

// csvCell encodes a field as JSON but without quotes. A field that JSON omits is an empty
// cell.
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

// inert keeps a spreadsheet from evaluating a value as a formula. A formula can send the
// file's content elsewhere.
func inert(s string) string {
	const formula = "=+-@＝＋－＠" // the characters that start a formula
	trimmed := strings.TrimLeft(s, " ")
	if trimmed != "" && strings.ContainsRune(formula, []rune(trimmed)[0]) {
		return "'" + s
	}
	return s
}
