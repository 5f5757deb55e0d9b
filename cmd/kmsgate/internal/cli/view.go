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
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/internal/printable"
)

// The values of -o.
const (
	OutputTable = "table"
	OutputJSON  = "json"
)

// OutputFlag returns the flag -o of the root command.
func OutputFlag() *Parameter {
	return &Parameter{
		Flag: "output", Short: "o", Inherited: true, Kind: "FORMAT", Usage: "print a table, or JSON for programs",
		Choices: []string{OutputTable, OutputJSON}, Values: []string{OutputTable},
	}
}

// A View is an answer in the two forms that can be printed. People get Rows if there are
// any, else Text if there is any, else JSON as programs do.
type View struct {
	Value    any        // for programs, as JSON
	Rows     [][]string // for people: a table
	header   bool       // Rows begins with a header
	Text     string     // for people
	Warnings []string   // for both, on the standard error
	Next     string     // for people: what to do next, on the standard error
}

// ViewOf shows a struct; people get one field a line, without the empty ones. If fields are
// named, only those are shown, in that order, to programs as well. "NAME{}" is a string that
// holds JSON, whose content is shown. "NAME?" is hidden from people if it is 0.
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

// ViewOfList shows structs; people get a table. [ViewOf] says what a field can be.
func ViewOfList[T any](items []T, fields ...string) View {
	records := []record{} // an empty list is [], not null
	for _, item := range items {
		records = append(records, recordOf(reflect.ValueOf(item), fields))
	}
	return View{Value: records, Rows: Table(items, fields...), header: true}
}

// Table returns rows of structs under a header: one column a field, named as the API names
// it. [ViewOf] says what a field can be.
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

// recordOf returns the named fields of a struct, or all, including those of embedded
// structs.
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
	value := unwrapped(m.value)
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

// unwrapped returns a value without the struct that the API wraps a list into. A list is never
// null.
func unwrapped(v reflect.Value) any {
	if v.Kind() == reflect.Struct && v.NumField() == 1 && v.Field(0).Kind() == reflect.Slice {
		v = v.Field(0)
	}
	if v.Kind() == reflect.Slice && v.IsNil() {
		return []string{}
	}
	return v.Interface()
}

// cell returns a member for people; a list becomes its members.
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

// Print writes a view in the format that -o asks for: all of it, or it returns an error. It
// prints nothing for a view without a Value.
func (a *App) Print(cmd *cobra.Command, v View) error {
	for _, warning := range v.Warnings {
		a.warn(cmd, warning)
	}
	if v.Value == nil {
		return nil
	}
	text, err := v.encode(a.Output.Value(), TerminalWidth(cmd.OutOrStdout()))
	if err == nil {
		_, err = cmd.OutOrStdout().Write(text)
	}
	if err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	if v.Next != "" && a.Output.Value() == OutputTable {
		fmt.Fprintln(cmd.ErrOrStderr(), v.Next)
	}
	return nil
}

// warn prints a warning to the standard error, as JSON if -o json asks for that.
func (a *App) warn(cmd *cobra.Command, warning string) {
	text := []byte("kmsgate: warning: " + printable.Text(warning) + "\n")
	if a.Output.Value() == OutputJSON {
		if encoded, err := encodeJSON(struct{ Warning string }{warning}); err == nil {
			text = encoded
		}
	}
	_, _ = cmd.ErrOrStderr().Write(text) // there is nowhere to report a failure to
}

func (v View) encode(format string, width int) ([]byte, error) {
	switch {
	case format == OutputTable && v.Rows != nil:
		text, err := Align(v.Rows)
		if err == nil && v.header && width > 0 && widest(text) > width {
			text, err = Align(blocks(v.Rows)...)
		}
		return []byte(text), err
	case format == OutputTable && v.Text != "":
		return []byte(v.Text), nil
	}
	return encodeJSON(v.Value)
}

// encodeJSON returns a value as indented JSON that can be printed.
func encodeJSON(value any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(value); err != nil {
		return nil, err
	}
	return printable.JSON(b.Bytes()), nil
}

// blocks turns a table with a header, which is too wide for a terminal, into one small table
// for each row: a line a column, without the empty ones. Nothing is cut.
func blocks(rows [][]string) (tables [][][]string) {
	for _, row := range rows[1:] {
		var block [][]string
		for i, cell := range row {
			if cell != "" {
				block = append(block, []string{rows[0][i], cell})
			}
		}
		tables = append(tables, block)
	}
	return tables
}

// widest returns how many columns the longest line of a text has.
func widest(text string) (width int) {
	for line := range strings.Lines(text) {
		width = max(width, utf8.RuneCountInString(strings.TrimRight(line, "\n ")))
	}
	return width
}

// Align returns tables as text, with an empty line between them. Their cells must be
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

// Count returns a number with its noun, which has a regular plural: "1 key", "2 keys".
func Count[N int | int64 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Document returns a JSON document, such as a policy, indented for people.
func Document(text string) string {
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		return printable.Text(text) + "\n"
	}
	return string(printable.JSON(b.Bytes())) + "\n"
}

// TerminalWidth returns the width of a terminal in columns, or 0 if w is not a terminal.
func TerminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
