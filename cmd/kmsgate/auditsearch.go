package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
)

func (a *admin) searchCommand() *cobra.Command {
	filter := newFilter()
	cmd := &cobra.Command{
		Use: "search [FILE…]", Short: "Search the audit log",
		Long: `Search the audit log: print the lines that match all flags. The command verifies
nothing: see kmsgate audit verify.`,
		Example: `  kmsgate audit search --user billing --since 24h
  kmsgate audit search --code Forbidden.NoPermission --since 2026-11-01 --until 2026-12-01 -o json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return search(cmd, args, filter, a.lineFormat()) },
	}
	filter.addTo(cmd)
	return cmd
}

func (a *admin) exportCommand() *cobra.Command {
	filter := newFilter()
	format := &cli.Parameter{Flag: "format", Kind: "FORMAT", Usage: "how lines are written", Choices: []string{string(auditlog.JSON), string(auditlog.CSV)}, Values: []string{string(auditlog.JSON)}}
	cmd := &cobra.Command{
		Use: "export [FILE…]", Short: "Export lines of the audit log, as JSON lines or for a spreadsheet",
		Example: `  kmsgate audit export --since 2026-11-01 --until 2026-12-01 --format csv > november.csv
  kmsgate audit export --user billing | jq .Action`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return search(cmd, args, filter, auditlog.Format(format.Value()))
		},
	}
	filter.addTo(cmd)
	format.AddTo(cmd)
	return cmd
}

func search(cmd *cobra.Command, args []string, flags *filterFlags, format auditlog.Format) error {
	filter, err := flags.filter()
	if err != nil {
		return err
	}
	names, err := logFiles(args)
	if err != nil {
		return err
	}
	return auditlog.Search(cmd.Context(), names, filter, auditlog.NewWriter(cmd.OutOrStdout(), format))
}

// lineFormat is the format that -o asks for.
func (a *admin) lineFormat() auditlog.Format {
	if a.Output.Value() == cli.OutputTable {
		return auditlog.Table
	}
	return auditlog.JSON
}

// filterFlags make a filter of a command line.
type filterFlags struct {
	fields       []auditlog.Field
	parameters   []*cli.Parameter // of the fields
	since, until string
}

func newFilter() *filterFlags {
	f := &filterFlags{fields: auditlog.Fields()}
	for _, field := range f.fields {
		f.parameters = append(f.parameters, &cli.Parameter{Flag: field.Name, Kind: field.Kind, Usage: "only lines " + field.Usage})
	}
	return f
}

func (f *filterFlags) addTo(cmd *cobra.Command) {
	for _, p := range f.parameters {
		p.AddTo(cmd)
	}
	cmd.Flags().StringVar(&f.since, "since", "", "only lines of this `TIME` or later: as 2026-11-22T08:00:00Z, as 2026-11-22, or as 24h for so long ago")
	cmd.Flags().StringVar(&f.until, "until", "", "only lines before this `TIME`")
}

func (f *filterFlags) filter() (*auditlog.Filter, error) {
	filter := new(auditlog.Filter)
	for i, p := range f.parameters {
		for _, value := range p.Values {
			filter.Want(f.fields[i], value)
		}
	}
	var err error
	if filter.Since, err = parseTime("since", f.since); err != nil {
		return nil, err
	}
	filter.Until, err = parseTime("until", f.until)
	return filter, err
}

func parseTime(flag, text string) (time.Time, error) {
	t, err := auditlog.ParseTime(text, time.Now())
	if err != nil {
		return t, fmt.Errorf("--%s: %w", flag, err)
	}
	return t, nil
}

// followEvery is how often it is checked whether a log has grown.
const followEvery = 200 * time.Millisecond

func (a *admin) tailCommand() *cobra.Command {
	var n int
	var follow bool
	cmd := &cobra.Command{
		Use: "tail [FILE]", Short: "Print the last lines of the audit log, and follow it",
		Example: "  kmsgate audit tail\n  kmsgate audit tail -f -n 0 -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 0 {
				return fmt.Errorf("-n: %d is not 0 or more", n)
			}
			return a.tail(cmd, args, n, follow)
		},
	}
	cmd.Flags().IntVarP(&n, "lines", "n", 10, "how many of the last lines to print")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print new lines as they come, across rotation, until Ctrl-C")
	return cmd
}

func (a *admin) tail(cmd *cobra.Command, args []string, n int, follow bool) error {
	path, err := logPath(args)
	if err != nil {
		return err
	}
	lines, tail, err := auditlog.OpenTail(path, n)
	if err != nil {
		return err
	}
	defer func() { tail.Close() }()
	out := auditlog.NewWriter(cmd.OutOrStdout(), a.lineFormat())
	for _, line := range lines {
		if err := out.Write(line); err != nil {
			return err
		}
	}
	if !follow {
		return out.Flush()
	}
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	return tail.Follow(cmd.Context(), out, ticker.C)
}
