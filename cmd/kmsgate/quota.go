package main

import "github.com/spf13/cobra"

func (a *admin) quotaCommand() *cobra.Command {
	// The names of quotas are the gateway's: it refuses others.
	quotaName := func() *parameter {
		return &parameter{name: "QuotaName", flag: "quota", kind: "NAME", usage: "which quota, as kmsgate quota list names it", required: true}
	}
	return family("quota", "Administer quotas: how many requests a second are served", `Administer quotas: how many requests a second are served.

Each user has the gateway's quotas, but for those that it is given of its own. What
goes beyond a quota is refused with 429 Rejected.Throttling. Which quota a request
is charged to depends on the listener: on a dedicated gateway signatures go to
"dedicated", on a shared one to "asymmetric". 0 is no limit.`,
		a.commands(task{
			verb: "list", short: "List the quotas of the gateway and of users",
			example: "kmsgate quota list",
			calls:   listed("ListQuotas", func(l quotas) []quota { return l.Quotas.Quota }),
		}, task{
			verb: "set", short: "Give a user a quota of its own",
			example: "kmsgate quota set --user billing --quota dedicated --qps 50",
			flags: []*parameter{
				userFlag("the user it is for"), quotaName(),
				{name: "QueriesPerSecond", flag: "qps", kind: "N", usage: "how many requests a second", required: true},
			},
			calls: done("SetUserQuota", "The quota {QuotaName} of {UserName} is {QueriesPerSecond} requests a second."),
		}, task{
			verb: "reset", short: "Take a user's own quota back",
			example: "kmsgate quota reset --user billing --quota dedicated",
			flags:   []*parameter{userFlag("the user whose quota it is"), quotaName()},
			calls:   with("QueriesPerSecond", "", done("SetUserQuota", "{UserName} has no quota {QuotaName} of its own any more.")),
		})...)
}

type quota struct {
	Gateway          string
	QuotaName        string
	UserName         string
	QueriesPerSecond float64
}

type quotas struct {
	Quotas struct{ Quota []quota }
}
