package main

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
	outputTable = "table"
	outputJSON  = "json"
)

func outputFlag() *parameter {
	return &parameter{
		flag: "output", short: "o", inherited: true, kind: "FORMAT", usage: "print a table for people, or json for programs",
		choices: []string{outputTable, outputJSON}, values: []string{outputTable},
	}
}

// A view is an answer in the two ways it can be printed.
type view struct {
	value any        // for programs, as JSON
	rows  [][]string // for people: the rows of a table, or
	text  string     // text, or, without both, JSON for them too
	hint  string     // for people only: printed apart, and never into a file
}

func viewOfList[T any](items []T) view {
	if items == nil {
		items = []T{} // an empty list is [], not null
	}
	return view{value: items, rows: table(items)}
}

// viewOf shows a struct, for people a field a line.
func viewOf(value any) view {
	var rows [][]string
	v := reflect.ValueOf(value)
	for _, f := range fieldsOf(v.Type()) {
		if text := cell(v.FieldByIndex(f.Index)); text != "" {
			rows = append(rows, []string{f.Name, text})
		}
	}
	return view{value: value, rows: rows}
}

// table makes rows of structs: a column for each field, named as the API names
// it.
func table[T any](items []T) [][]string {
	fields := fieldsOf(reflect.TypeFor[T]())
	rows := [][]string{nil}
	for _, f := range fields {
		rows[0] = append(rows[0], f.Name)
	}
	for _, item := range items {
		var row []string
		for _, f := range fields {
			row = append(row, cell(reflect.ValueOf(item).FieldByIndex(f.Index)))
		}
		rows = append(rows, row)
	}
	return rows
}

// fieldsOf gives a struct's fields, those of embedded structs as its own.
func fieldsOf(t reflect.Type) []reflect.StructField {
	return slices.DeleteFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool { return f.Anonymous || !f.IsExported() })
}

// cell writes a field of an answer; a list is written as its members.
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
	return plain(fmt.Sprint(v.Interface()))
}

// print writes a view in the format that -o asks for, all of it or an error.
func (a *admin) print(cmd *cobra.Command, v view) error {
	if v.value == nil {
		return nil
	}
	text, err := v.encode(a.output.value())
	if err == nil {
		_, err = cmd.OutOrStdout().Write(text)
	}
	if err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	if v.hint != "" && isTerminal(cmd.OutOrStdout()) {
		cmd.PrintErrln(v.hint)
	}
	return nil
}

func (v view) encode(format string) ([]byte, error) {
	switch {
	case format == outputTable && v.rows != nil:
		return align(v.rows)
	case format == outputTable && v.text != "":
		return []byte(v.text), nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v.value); err != nil {
		return nil, err
	}
	return printable.JSON(b.Bytes()), nil
}

func align(rows [][]string) ([]byte, error) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	err := w.Flush()
	return b.Bytes(), err
}

// document shows JSON, such as a policy, laid out for people.
func document(text string) string {
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
		return plain(text) + "\n"
	}
	return string(printable.JSON(b.Bytes())) + "\n"
}

// lines shows a text of several lines, such as PEM.
func lines(text string) string { return printable.Lines(text) }

// plain writes a value so that it cannot act on a terminal.
func plain(s string) string { return printable.Text(s) }

// isTerminal reports whether a person reads what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
