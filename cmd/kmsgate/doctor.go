package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/doctor"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/printable"
)

func (a *operator) doctorCommand() *cobra.Command {
	d := doctorFlags{app: a.App}
	cmd := &cobra.Command{
		Use: "doctor", Short: "Find what is wrong with a gateway, its token and its records",
		Long: `Find what is wrong with a gateway. The command examines its configuration and files, the
token and its abilities, and whether token and records agree. It lets every key version
sign once, until its time is over. For each finding it says what to do. The exit status is
0 if there is no problem.

It answers in 5 s even if a file system, the token or the gateway hangs, and says which of
them does. To test more keys than the time allows, give it more with --timeout.

With --repair it lists what it can repair, and asks. It then destroys objects that
kmsgate made in the token but no record mentions, and removes empty files of SoftHSM. It
never destroys an object whose id is in any record. It destroys nothing if the token has
more private keys without a record than with one: the database is then probably not the
right one.`,
		Example: "  kmsgate doctor --config /etc/kmsgate/kmsgate.yaml\n  kmsgate doctor --config /etc/kmsgate/kmsgate.yaml --repair\n  kmsgate doctor --config /etc/kmsgate/kmsgate.yaml --timeout 10m",
		Args:    cli.Arguments(""), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd) },
	}
	a.Dialer.Register(cmd)
	cmd.Flags().BoolVar(&d.repair, "repair", false, "repair what can be repaired without losing anything that is recorded")
	cmd.Flags().BoolVarP(&d.yes, "yes", "y", false, "do not ask before a repair")
	cmd.Flags().DurationVar(&d.timeout, "timeout", doctor.DefaultTimeout, "`TIME` for an examination, such as 10m for many keys")
	return cmd
}

type doctorFlags struct {
	app         *cli.App
	repair, yes bool
	timeout     time.Duration
}

func (f *doctorFlags) run(cmd *cobra.Command) (err error) {
	if f.timeout < time.Second {
		return cli.Usagef("--timeout %v: must be at least 1s", f.timeout)
	}
	d := doctor.Doctor{
		Configuration: f.app.Dialer.Configuration, Timeout: f.timeout, Command: commandAs(cmd),
		Dial: func(onlyRunning bool) (target.Caller, error) {
			if onlyRunning {
				return f.app.Dialer.DialRunning(cmd)
			}
			return f.app.Dialer.Dial(cmd)
		},
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	found := d.Examine(cmd.Context())
	if err := found.OpenError(); errors.Is(err, target.ErrNoTarget) {
		return err
	}
	if err := cmd.Context().Err(); err != nil {
		return err
	}
	if plan := repairPlan(found); f.repair && plan != "" {
		if f.yes {
			fmt.Fprint(cmd.ErrOrStderr(), plan)
		} else if err := f.app.Confirm(cmd, plan); err != nil {
			return err
		}
		repaired, err := d.Repair(cmd.Context(), found)
		if err != nil {
			return err
		}
		found = d.Examine(cmd.Context())
		found.Repaired = repaired
	}
	v, err := viewOfDiagnosis(found)
	if err == nil {
		err = f.app.Print(cmd, v)
	}
	if n := found.Problems(); err == nil && n > 0 {
		err = fmt.Errorf("%s found", cli.Count(n, "problem"))
	}
	return err
}

// commandAs returns the command line for another user, who does not have this user's environment.
func commandAs(cmd *cobra.Command) string {
	line := cli.CommandLine(cmd)
	for _, name := range []string{"socket", "config", "dir"} {
		if flag := cmd.Flag(name); flag != nil && flag.Changed {
			return line
		}
	}
	if socket := os.Getenv(target.SocketVariable); socket != "" {
		line += " --socket " + printable.Shell(socket)
	}
	return line
}

// repairPlan lists what a repair will do. It is empty if there is nothing to do.
func repairPlan(d *doctor.Diagnosis) string {
	var b strings.Builder
	step := func(heading string, items []string) {
		if len(items) > 0 {
			b.WriteString(heading + "\n")
		}
		for _, item := range items {
			fmt.Fprintf(&b, "  - %s\n", printable.Text(item))
		}
	}
	step("This permanently destroys these objects in the token, which no record mentions:", d.Strays())
	step("This removes these empty files:", d.EmptyFiles())
	return b.String()
}

// viewOfDiagnosis shows the user first, then problems, and what the token can do last.
func viewOfDiagnosis(d *doctor.Diagnosis) (cli.View, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "You are uid %d", d.UID)
	if d.User != "" {
		fmt.Fprintf(&b, " (%s)", printable.Text(d.User))
	}
	fmt.Fprintln(&b, ".")
	for _, sentence := range d.Repaired {
		fmt.Fprintln(&b, printable.Text(sentence))
	}
	for _, severity := range []doctor.Severity{doctor.Problem, doctor.Note} {
		for _, f := range d.Findings {
			if f.Severity == severity {
				printFinding(&b, f)
			}
		}
	}
	switch {
	case d.Problems() > 0:
	case d.Incomplete:
		b.WriteString("No problems were found in what was examined.\n")
	default:
		b.WriteString("No problems were found.\n")
	}
	if len(d.Offers) > 0 {
		offers, err := cli.Align(cli.Table(offersOf(hsm.Survey{Offers: d.Offers})))
		if err != nil {
			return cli.View{}, err
		}
		fmt.Fprintf(&b, "\nWhat the token can do for each KeySpec:\n\n%s", offers)
	}
	return cli.View{Value: d, Text: b.String()}, nil
}

func printFinding(b *strings.Builder, f doctor.Finding) {
	fmt.Fprintf(b, "%s: %s\n", f.Severity, printable.Text(f.What))
	for _, symptom := range f.Symptoms {
		fmt.Fprintf(b, "    also: %s\n", printable.Text(symptom))
	}
	if f.Do != "" {
		fmt.Fprintf(b, "    do: %s\n", printable.Text(f.Do))
	}
}
