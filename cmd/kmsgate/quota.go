package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

func (a *admin) quotaCommand() *cobra.Command {
	// The gateway checks the name: it knows its quotas.
	quotaName := func() *cli.Parameter {
		return &cli.Parameter{Name: "QuotaName", Flag: "quota", Kind: "NAME", Usage: "the quota, as kmsgate quota list names it", Required: true, Complete: quotaNames}
	}
	return a.Family("quota", "Administer quotas: how many requests a second a user may make", `Administer quotas: how many requests a second a user may make.

The gateway's quotas apply to every user, unless kmsgate quota update sets others for one
user. The gateway refuses requests beyond a quota with 429 Rejected.Throttling. The
listener decides which quota a request counts against: signatures count against
"dedicated" on a dedicated gateway and against "asymmetric" on a shared one. On a
dedicated gateway, everything but business operations counts against "dedicated_other".
0 means no limit.`,
		a.Commands(cli.Task{
			Verb: "list", Short: "List the quotas of the gateway and of users",
			Example: "kmsgate quota list",
			Calls:   cli.Listed("ListQuotas", func(l kms.ListQuotasResponse) []kms.QuotaItem { return l.Quotas.Quota }),
		}, cli.Task{
			Verb: "update", Short: "Change a quota for one user",
			Example: "kmsgate quota update --user billing --quota dedicated --qps 50",
			Flags: []*cli.Parameter{
				userFlag("the user whose quota it is"), quotaName(),
				{Name: "QueriesPerSecond", Flag: "qps", Kind: "N", Usage: "requests a second: 1 to 1000000", Required: true},
			},
			Calls: cli.Done("SetUserQuota", "Quota {QuotaName} of user {UserName} is {QueriesPerSecond} requests a second."),
		}, cli.Task{
			Verb: "reset", Short: "Let the gateway's quota apply to a user again",
			Example: "kmsgate quota reset --user billing --quota dedicated",
			Flags:   []*cli.Parameter{userFlag("the user whose quota it is"), quotaName()},
			Calls:   cli.With("QueriesPerSecond", "", cli.Done("SetUserQuota", "The gateway's quota {QuotaName} applies to user {UserName} again.")),
		})...)
}
