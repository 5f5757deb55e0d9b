package main

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
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// How lines of the audit log can be exported.
const (
	formatLines = "jsonl"
	formatCSV   = "csv"
)

// A lineWriter writes lines of the audit log, each as it comes.
type lineWriter struct {
	*bufio.Writer
	encode func(line audit.Line) ([]byte, error)
}

func newLineWriter(w io.Writer, format string) *lineWriter {
	out := &lineWriter{Writer: bufio.NewWriter(w)}
	switch format {
	case outputTable:
		out.encode = lineRow
		out.Write(pad(func(c lineColumn) string { return c.name })) // Flush tells the error
	case formatCSV:
		out.encode = lineCSV
		var names []string
		for _, f := range fieldsOf(reflect.TypeFor[audit.Line]()) {
			names = append(names, f.Name)
		}
		csv.NewWriter(out).WriteAll([][]string{names})
	default:
		out.encode = lineJSON
	}
	return out
}

func (w *lineWriter) write(line audit.Line) error {
	text, err := w.encode(line)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// lineJSON writes a line as it is in the log.
func lineJSON(line audit.Line) ([]byte, error) {
	text, err := json.Marshal(line)
	return append(plainJSON(text), '\n'), err
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
		{"Time", 20, func(l audit.Line) string { return l.Time.UTC().Format(time.RFC3339) }},
		{"User", 14, func(l audit.Line) string { return l.Principal }},
		{"Action", 20, event},
		{"Of", 36, func(l audit.Line) string { return cmp.Or(l.Alias, l.KeyId, l.Subject) }},
		{"Code", 22, outcome},
		{"Source", 15, func(l audit.Line) string { return l.Source }},
		{"RequestId", 0, func(l audit.Line) string { return l.RequestId }},
	}
}

func lineRow(line audit.Line) ([]byte, error) {
	return pad(func(c lineColumn) string { return plain(cmp.Or(c.cell(line), "-")) }), nil
}

func pad(cell func(c lineColumn) string) []byte {
	var b []byte
	for _, c := range lineColumns() {
		b = fmt.Appendf(b, "%-*s  ", c.width, cell(c))
	}
	return append(bytes.TrimRight(b, " "), '\n')
}

// event is what a line is about: an operation, or the log itself.
func event(l audit.Line) string {
	switch {
	case l.Action != "":
		return l.Action
	case l.Checkpoint != nil:
		return "(checkpoint)"
	case l.Suppressed > 0:
		return fmt.Sprintf("(%d suppressed)", l.Suppressed)
	case l.Recovered:
		return "(recovered)"
	case l.Abandoned != "": // which has Resumed set too
		return "(abandoned)"
	case l.Resumed != "":
		return "(resumed)"
	case l.Unwitnessed > 0:
		return fmt.Sprintf("(%d unwitnessed)", l.Unwitnessed)
	case l.Lost != "":
		return "(lost)"
	case l.Restored != nil:
		return "(restored)"
	}
	return ""
}

// outcome is the code of an answer, ok for success.
func outcome(l audit.Line) string {
	if l.Code == "" && l.RequestId != "" {
		return "ok"
	}
	return l.Code
}

// lineCSV writes a line for a spreadsheet.
func lineCSV(line audit.Line) ([]byte, error) {
	var cells []string
	for _, f := range fieldsOf(reflect.TypeFor[audit.Line]()) {
		text, err := csvCell(reflect.ValueOf(line).FieldByIndex(f.Index))
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

// csvCell writes a field as JSON has it, but without quotes, and nothing for
// what JSON leaves out.
func csvCell(v reflect.Value) (string, error) {
	if v.IsZero() {
		return "", nil
	}
	text, err := json.Marshal(v.Interface())
	s := string(text)
	if v := ""; json.Unmarshal(text, &v) == nil {
		s = v
	}
	return inert(plain(s)), err
}

// inert keeps a spreadsheet from taking a value for a formula, which it would
// calculate: one could send what is in the file elsewhere.
func inert(s string) string {
	if begin := strings.TrimLeft(s, " "); begin != "" && strings.ContainsRune("=+-@＝＋－＠", []rune(begin)[0]) {
		return "'" + s
	}
	return s
}
