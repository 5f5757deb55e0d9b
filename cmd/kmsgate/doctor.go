package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/doctor"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/hsm"
)

func (a *admin) doctorCommand() *cobra.Command {
	d := doctorFlags{admin: a}
	cmd := &cobra.Command{
		Use: "doctor", Short: "Find what is wrong with a gateway, its token and its records",
		Long: `Find what is wrong with a gateway: its configuration and files, the token and what
it can do, and whether token and records agree; and has every key version sign once.
It says what to do about each thing. The exit status is 0 if there is no problem.

With --repair it destroys objects of ours in the token that no record speaks of,
and removes empty files of SoftHSM's, when you have seen which and said yes. It never
destroys an object whose id any record has, and none at all when the token has more
private keys without a record than with one: then the database is not the token's.`,
		Example: "  kmsgate doctor --config /etc/kmsgate/kmsgate.yaml\n  kmsgate doctor --config /etc/kmsgate/kmsgate.yaml --repair",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd) },
	}
	cmd.Flags().BoolVar(&d.repair, "repair", false, "mend what can be mended without losing anything that is recorded")
	cmd.Flags().BoolVarP(&d.yes, "yes", "y", false, "do not ask before mending")
	return cmd
}

type doctorFlags struct {
	admin       *admin
	repair, yes bool
}

func (f *doctorFlags) run(cmd *cobra.Command) (err error) {
	d := doctor.Doctor{Dial: func() (target.Caller, error) { return f.admin.Dialer.Dial(cmd) }}
	d.Config, d.ConfigError = f.admin.Dialer.Configuration()
	defer func() { err = errors.Join(err, d.Close()) }()
	found := d.Examine(cmd.Context())
	if plan := repairPlan(found); f.repair && plan != "" {
		fmt.Fprint(cmd.ErrOrStderr(), plan)
		if !f.yes && !cli.Confirmed(cmd.ErrOrStderr(), cmd.InOrStdin()) {
			return errors.New("nothing was done")
		}
		mended, err := d.Repair(cmd.Context(), found)
		if err != nil {
			return err
		}
		found = d.Examine(cmd.Context())
		found.Mended = mended
	}
	v, err := viewOfDiagnosis(found)
	if err == nil {
		err = f.admin.Print(cmd, v)
	}
	if n := found.Problems(); err == nil && n > 0 {
		err = fmt.Errorf("problems: %d", n)
	}
	return err
}

// repairPlan says what a repair is going to do; empty for nothing.
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
	step("These objects in the token, which no record speaks of, are going to be destroyed for good:", d.Strays())
	step("These empty files are going to be removed:", d.EmptyFiles())
	return b.String()
}

// viewOfDiagnosis shows problems first, and in the end what the token can do.
func viewOfDiagnosis(d *doctor.Diagnosis) (cli.View, error) {
	var b strings.Builder
	for _, what := range d.Mended {
		fmt.Fprintln(&b, printable.Text(what))
	}
	for _, severity := range []doctor.Severity{doctor.Problem, doctor.Note} {
		for _, f := range d.Findings {
			if f.Severity == severity {
				fmt.Fprintf(&b, "%s: %s\n", f.Severity, printable.Text(f.What))
			}
			if f.Severity == severity && f.Do != "" {
				fmt.Fprintf(&b, "    do: %s\n", printable.Text(f.Do))
			}
		}
	}
	if d.Problems() == 0 {
		b.WriteString("No problems were found.\n")
	}
	if len(d.Offers) > 0 {
		offers, err := cli.Align(cli.Table(offersOf(hsm.Survey{Offers: d.Offers})))
		if err != nil {
			return cli.View{}, err
		}
		fmt.Fprintf(&b, "\nThe token and keys of each KeySpec:\n\n%s", offers)
	}
	return cli.View{Value: d, Text: b.String()}, nil
}
