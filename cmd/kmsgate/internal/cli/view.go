package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
)

// The values of -o.
const (
	OutputTable = "table"
	OutputJSON  = "json"
)

// OutputFlag returns the flag -o.
func OutputFlag() *Parameter {
	return &Parameter{
		Flag: "output", Short: "o", Inherited: true, Kind: "FORMAT", Usage: "print a table for people, or json for programs",
		Choices: []string{OutputTable, OutputJSON}, Values: []string{OutputTable},
	}
}

// A View is an answer in the two ways it can be printed.
type View struct {
	Value any        // for programs, as JSON
	Rows  [][]string // for people: the rows of a table, or
	Text  string     // text, or, without both, JSON for them too
	Hint  string     // for people only: printed apart, and never into a file
}

// ViewOf shows a struct, for people a field a line and none that is empty. With fields it
// shows only those, in that order, to programs, too. A field NAME{} is a string with JSON
// in it, which is shown as what it says; the number of a field NAME? is not shown to people
// if it is 0.
func ViewOf(value any, fields ...string) View {
	r := recordOf(reflect.ValueOf(value), fields)
	var rows [][]string
	for _, m := range r {
		if text := m.cell(); text != "" {
			rows = append(rows, []string{m.name, text})
		}
	}
	return View{Value: r, Rows: rows}
}

// ViewOfList shows structs, for people as a table. fields are those of [ViewOf].
func ViewOfList[T any](items []T, fields ...string) View {
	records := []record{} // an empty list is [], not null
	for _, item := range items {
		records = append(records, recordOf(reflect.ValueOf(item), fields))
	}
	return View{Value: records, Rows: Table(items, fields...)}
}

// Table makes rows of structs: a column for each field, named as the API names it. fields
// are those of [ViewOf].
func Table[T any](items []T, fields ...string) [][]string {
	var empty T
	rows := [][]string{nil}
	for _, m := range recordOf(reflect.ValueOf(empty), fields) {
		rows[0] = append(rows[0], m.name)
	}
	for _, item := range items {
		var row []string
		for _, m := range recordOf(reflect.ValueOf(item), fields) {
			row = append(row, m.cell())
		}
		rows = append(rows, row)
	}
	return rows
}

// A record is some fields of a struct, in order.
type record []member

type member struct {
	name       string
	value      reflect.Value
	isJSON     bool // the value is a string with JSON in it
	hidesZeros bool // from people
}

// recordOf returns some fields of a struct, or all of them, those of embedded structs as
// its own.
func recordOf(v reflect.Value, fields []string) (r record) {
	if fields == nil {
		for _, f := range reflect.VisibleFields(v.Type()) {
			if !f.Anonymous && f.IsExported() {
				r = append(r, member{name: f.Name, value: v.FieldByIndex(f.Index)})
			}
		}
		return r
	}
	for _, field := range fields {
		m := member{name: strings.TrimRight(field, "{}?"), isJSON: strings.HasSuffix(field, "{}"), hidesZeros: strings.HasSuffix(field, "?")}
		if m.value = v.FieldByName(m.name); !m.value.IsValid() {
			panic(fmt.Sprintf("%s has no field %s", v.Type(), m.name)) // a mistake in this program
		}
		r = append(r, m)
	}
	return r
}

// MarshalJSON writes an object with the members in their order.
func (r record) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, m := range r {
		text, err := m.json()
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s%q:%s", map[bool]string{true: "{", false: ","}[i == 0], m.name, text)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (m member) json() ([]byte, error) {
	value := m.value.Interface()
	if m.isJSON {
		value = json.RawMessage(m.value.String())
		if m.value.String() == "" {
			value = nil
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return b.Bytes(), err
}

// cell writes a member for people; a list is written as its members.
func (m member) cell() string {
	if m.hidesZeros && m.value.IsZero() {
		return ""
	}
	if m.isJSON {
		var value any
		if err := json.Unmarshal([]byte(m.value.String()), &value); err != nil {
			return printable.Text(m.value.String())
		}
		return cellOfJSON(value)
	}
	return cell(m.value)
}

func cell(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Struct: // the API wraps a list into a struct of one field
		return cell(v.Field(0))
	case reflect.Slice:
		var members []string
		for i := range v.Len() {
			members = append(members, cell(v.Index(i)))
		}
		return strings.Join(members, ", ")
	}
	return printable.Text(fmt.Sprint(v.Interface()))
}

func cellOfJSON(value any) string {
	var members []string
	switch value := value.(type) {
	case []any:
		for _, v := range value {
			members = append(members, cellOfJSON(v))
		}
	case map[string]any: // the API wraps a list into an object of one member
		for _, v := range value {
			members = append(members, cellOfJSON(v))
		}
		slices.Sort(members)
	default:
		return printable.Text(fmt.Sprint(value))
	}
	return strings.Join(members, ", ")
}

// Print writes a view in the format that -o asks for, all of it or an error. A view
// without a Value is nothing to print.
func (a *App) Print(cmd *cobra.Command, v View) error {
	if v.Value == nil {
		return nil
	}
	text, err := v.encode(a.Output.Value())
	if err == nil {
		_, err = cmd.OutOrStdout().Write(text)
	}
	if err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	if v.Hint != "" && isTerminal(cmd.OutOrStdout()) {
		cmd.PrintErrln(v.Hint)
	}
	return nil
}

func (v View) encode(format string) ([]byte, error) {
	switch {
	case format == OutputTable && v.Rows != nil:
		text, err := Align(v.Rows)
		return []byte(text), err
	case format == OutputTable && v.Text != "":
		return []byte(v.Text), nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v.Value); err != nil {
		return nil, err
	}
	return printable.JSON(b.Bytes()), nil
}

// Align writes tables as text, with an empty line between them. The cells must be
// printable.
func Align(tables ...[][]string) (string, error) {
	var texts []string
	for _, rows := range tables {
		var b strings.Builder
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, row := range rows {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
		if err := w.Flush(); err != nil {
			return "", err
		}
		texts = append(texts, b.String())
	}
	return strings.Join(texts, "\n"), nil
}

// Document lays out JSON, such as a policy, for people.
func Document(text string) string {
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		return printable.Text(text) + "\n"
	}
	return string(printable.JSON(b.Bytes())) + "\n"
}

// isTerminal reports whether a person reads what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
