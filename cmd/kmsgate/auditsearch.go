package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

func (a *auditor) searchCommand() *cobra.Command {
	filter := newFilter()
	cmd := &cobra.Command{
		Use: "search [FILE…]", Short: "Search the audit log",
		Long: `Search the audit log: print the lines that match all flags. The log is not verified
(see kmsgate audit verify). With -o json, each line is a JSON object.`,
		Example: `  kmsgate audit search --user billing --since 24h
  kmsgate audit search --code Forbidden.NoPermission --since 2026-11-01 --until 2026-12-01 -o json`,
		Args: cli.Arguments("[FILE…]"),
		RunE: func(cmd *cobra.Command, args []string) error { return search(cmd, args, filter, a.lineFormat()) },
	}
	filter.addTo(a.App, cmd)
	return cmd
}

func (a *auditor) exportCommand() *cobra.Command {
	filter := newFilter()
	format := &cli.Parameter{Flag: "output", Short: "o", Kind: "FORMAT", Usage: "how each line is written", Choices: []string{string(auditlog.JSON), string(auditlog.CSV)}, Values: []string{string(auditlog.JSON)}}
	cmd := &cobra.Command{
		Use: "export [FILE…]", Short: "Export the audit log, as lines of JSON or as CSV",
		Example: `  kmsgate audit export --since 2026-11-01 --until 2026-12-01 -o csv > november.csv
  kmsgate audit export --user billing | jq .Action`,
		Args: cli.Arguments("[FILE…]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return search(cmd, args, filter, auditlog.Format(format.Value()))
		},
	}
	filter.addTo(a.App, cmd)
	format.AddTo(cmd)
	return cmd
}

func search(cmd *cobra.Command, args []string, flags *filterFlags, format auditlog.Format) error {
	filter, err := flags.filter()
	if err != nil {
		return err
	}
	out := newWriter(cmd.OutOrStdout(), format)
	found, err := searchFiles(cmd.Context(), args, filter, out)
	if err == nil && found == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "kmsgate: no line matches"+flags.doubts())
	}
	return err
}

// searchFiles searches the files that a command line names, or the whole log.
func searchFiles(ctx context.Context, args []string, filter *auditlog.Filter, out *auditlog.Writer) (int, error) {
	if len(args) > 0 {
		return auditlog.Search(ctx, args, filter, out)
	}
	path, err := logPath(nil)
	if err != nil {
		return 0, err
	}
	return auditlog.SearchLog(ctx, path, filter, out)
}

// newWriter returns a writer of lines. A table fits the terminal.
func newWriter(w io.Writer, format auditlog.Format) *auditlog.Writer {
	if format == auditlog.Table {
		return auditlog.NewTable(w, cli.TerminalWidth(w))
	}
	return auditlog.NewWriter(w, format)
}

// lineFormat returns the format that -o asks for.
func (a *auditor) lineFormat() auditlog.Format {
	if a.Output.Value() == cli.OutputTable {
		return auditlog.Table
	}
	return auditlog.JSON
}

// filterFlags are the flags that select lines.
type filterFlags struct {
	fields       []auditlog.Field
	parameters   []*cli.Parameter // one for each of fields
	since, until string
}

func newFilter() *filterFlags {
	f := &filterFlags{fields: auditlog.Fields()}
	complete := map[string]cli.Completer{"user": userNames, "action": operationNames, "key": keyIds, "alias": aliasNames, "access-key": accessKeyIds}
	for _, field := range f.fields {
		f.parameters = append(f.parameters, &cli.Parameter{Flag: field.Name, Kind: field.Kind, Usage: "only lines " + field.Usage, Complete: complete[field.Name]})
	}
	return f
}

func (f *filterFlags) addTo(app *cli.App, cmd *cobra.Command) {
	for _, p := range f.parameters {
		app.AddFlag(cmd, p)
	}
	cmd.Flags().StringVar(&f.since, "since", "", "only lines of this `TIME` or later: 2026-11-22T08:00:00Z, 2026-11-22, or 24h for a day ago")
	cmd.Flags().StringVar(&f.until, "until", "", "only lines before this `TIME`")
}

func (f *filterFlags) filter() (*auditlog.Filter, error) {
	filter := new(auditlog.Filter)
	for i, p := range f.parameters {
		for _, value := range p.Values {
			filter.Require(f.fields[i], value)
		}
	}
	var err error
	if filter.Since, err = parseTime("since", f.since); err != nil {
		return nil, err
	}
	if filter.Until, err = parseTime("until", f.until); err != nil {
		return nil, err
	}
	if !filter.Until.IsZero() && !filter.Since.Before(filter.Until) {
		return nil, cli.Usagef("--since %s is not before --until %s", f.since, f.until)
	}
	return filter, nil
}

// doubts names the values of flags that no line can have, because no operation or error has
// that name.
func (f *filterFlags) doubts() (text string) {
	names := map[string][]string{"action": operations(), "code": codes()}
	for _, p := range f.parameters {
		known := names[p.Flag]
		for _, value := range p.Values {
			if known == nil || slices.ContainsFunc(known, func(name string) bool { return strings.EqualFold(name, value) }) {
				continue
			}
			text += fmt.Sprintf("; --%s %q is not known", p.Flag, value)
			if similar := cli.Similar(value, known); len(similar) > 0 {
				text += ": did you mean " + similar[0] + "?"
			}
		}
	}
	return text
}

// operations returns the names of all operations.
func operations() (names []string) {
	for _, o := range kms.Operations {
		names = append(names, o.Name)
	}
	return names
}

// codes returns all codes that a line can have.
func codes() []string {
	names := []string{auditlog.Success, auditlog.Intended}
	for _, e := range slices.Concat(kms.Errors(), kms.AdminErrors(), kms.NativeErrors()) {
		names = append(names, e.Code)
	}
	return names
}

func parseTime(flag, text string) (time.Time, error) {
	t, err := auditlog.ParseTime(text, time.Now())
	if err != nil {
		return t, cli.Usagef("--%s: %w", flag, err)
	}
	return t, nil
}

// followEvery is the time between two looks at a log that is followed.
const followEvery = 200 * time.Millisecond

func (a *auditor) tailCommand() *cobra.Command {
	var n int
	var follow bool
	cmd := &cobra.Command{
		Use: "tail [FILE]", Short: "Print the last lines of the audit log, or follow it",
		Example: "  kmsgate audit tail\n  kmsgate audit tail -f -n 0 -o json",
		Args:    cli.Arguments("[FILE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 0 {
				return cli.Usagef("--lines %d: must be 0 or more", n)
			}
			return a.tail(cmd, args, n, follow)
		},
	}
	cmd.Flags().IntVarP(&n, "lines", "n", 10, "`N`, the number of lines to print")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print new lines as they are written, across rotation, until Ctrl-C")
	return cmd
}

func (a *auditor) tail(cmd *cobra.Command, args []string, n int, follow bool) error {
	path, err := logPath(args)
	if err != nil {
		return err
	}
	lines, tail, err := auditlog.OpenTail(path, n)
	if err != nil {
		return err
	}
	defer func() { tail.Close() }()
	out := newWriter(cmd.OutOrStdout(), a.lineFormat())
	for _, line := range lines {
		if err := out.Write(line); err != nil {
			return err
		}
	}
	if err := errors.Join(out.Flush(), tail.Gaps()); err != nil || !follow {
		return err
	}
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	return tail.Follow(cmd.Context(), out, ticker.C)
}
