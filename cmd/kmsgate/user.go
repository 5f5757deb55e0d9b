package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// userFlag is the flag that names a user.
func userFlag(usage string) *cli.Parameter {
	return &cli.Parameter{Name: "UserName", Flag: "user", Kind: "NAME", Usage: usage, Required: true}
}

func (a *admin) userCommand() *cobra.Command {
	userName := func() *cli.Parameter { return &cli.Parameter{Name: "UserName", Kind: "NAME"} }
	return cli.Family("user", "Administer the users", `Administer the users: the people and programs that may use keys.

A new user may do nothing: attach a policy to it (kmsgate policy attach) and
create an access key for it (kmsgate accesskey create).`,
		a.Commands(cli.Task{
			Verb: "create", Short: "Create a user, who may do nothing yet",
			Example:   "kmsgate user create alice\nkmsgate user create billing --comments 'signs invoices'",
			Arguments: []*cli.Parameter{userName()},
			Flags:     []*cli.Parameter{{Name: "Comments", Flag: "comments", Kind: "TEXT", Usage: "who or what the user is"}},
			Calls:     cli.Done("CreateUser", "The user {UserName} is created."),
		}, cli.Task{
			Verb: "list", Short: "List the users, their policies and how many access keys they have",
			Example: "kmsgate user list\nkmsgate user list -o json",
			Calls:   cli.Listed("ListUsers", func(l kms.ListUsersResponse) []kms.UserItem { return l.Users.User }),
		}, cli.Task{
			Verb: "delete", Short: "Delete a user",
			Long: `Delete a user.

One who has access keys or policies is deleted with --force only, and they with
it: programs that still use those access keys are refused from then on.`,
			Example:   "kmsgate user delete alice\nkmsgate user delete billing --force",
			Arguments: []*cli.Parameter{userName()},
			Flags:     []*cli.Parameter{{Name: "Force", Flag: "force", Kind: "bool", Usage: "delete the user's access keys, too, and detach its policies"}},
			Calls:     cli.Done("DeleteUser", "The user {UserName} is deleted."),
		})...)
}
