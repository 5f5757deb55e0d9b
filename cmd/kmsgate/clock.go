package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

func (a *admin) clockCommand() *cobra.Command {
	return a.Family("clock", "See whether the gateway believes this machine's clock", `See whether the gateway believes this machine's clock.

The gateway deletes no key while the clock does not agree with the time that passes: after a
jump, and after a start when more than two hours have passed since the last time known. The
clock is believed again after a day of agreement, or when an operator confirms it.`,
		a.Commands(cli.Task{
			Verb: "show", Short: "Show the gateway's time, and whether it is believed",
			Example: "kmsgate clock show",
			Calls:   cli.Answered("DescribeClock", func(d kms.DescribeClockResponse) cli.View { return cli.ViewOf(d.Clock) }),
		}, cli.Task{
			Verb: "confirm", Short: "Say that the clock is right",
			Long: `Say that the clock is right. The gateway then deletes the keys whose deletion is due by
this clock, which cannot be undone.`,
			Example: "kmsgate clock confirm",
			Confirm: cli.Ask("This deletes the keys whose deletion is due by the gateway's clock (kmsgate clock show)."),
			Calls:   cli.Done("ConfirmClock", "The gateway believes its clock."),
		})...)
}
