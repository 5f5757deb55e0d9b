package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

func (a *admin) quotaCommand() *cobra.Command {
	// The names of quotas are the gateway's: it refuses others.
	quotaName := func() *cli.Parameter {
		return &cli.Parameter{Name: "QuotaName", Flag: "quota", Kind: "NAME", Usage: "which quota, as kmsgate quota list names it", Required: true}
	}
	return cli.Family("quota", "Administer quotas: how many requests a second are served", `Administer quotas: how many requests a second are served.

Each user has the gateway's quotas, but for those that it is given of its own. What
goes beyond a quota is refused with 429 Rejected.Throttling. Which quota a request
is charged to depends on the listener: on a dedicated gateway signatures go to
"dedicated", on a shared one to "asymmetric". 0 is no limit.`,
		a.Commands(cli.Task{
			Verb: "list", Short: "List the quotas of the gateway and of users",
			Example: "kmsgate quota list",
			Calls:   cli.Listed("ListQuotas", func(l kms.ListQuotasResponse) []kms.QuotaItem { return l.Quotas.Quota }),
		}, cli.Task{
			Verb: "set", Short: "Give a user a quota of its own",
			Example: "kmsgate quota set --user billing --quota dedicated --qps 50",
			Flags: []*cli.Parameter{
				userFlag("the user it is for"), quotaName(),
				{Name: "QueriesPerSecond", Flag: "qps", Kind: "N", Usage: "how many requests a second", Required: true},
			},
			Calls: cli.Done("SetUserQuota", "The quota {QuotaName} of {UserName} is {QueriesPerSecond} requests a second."),
		}, cli.Task{
			Verb: "reset", Short: "Take a user's own quota back",
			Example: "kmsgate quota reset --user billing --quota dedicated",
			Flags:   []*cli.Parameter{userFlag("the user whose quota it is"), quotaName()},
			Calls:   cli.With("QueriesPerSecond", "", cli.Done("SetUserQuota", "{UserName} has no quota {QuotaName} of its own any more.")),
		})...)
}
