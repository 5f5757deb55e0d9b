package main

import "github.com/spf13/cobra"

// userFlag is the flag that names a user.
func userFlag(usage string) *parameter {
	return &parameter{name: "UserName", flag: "user", kind: "NAME", usage: usage, required: true}
}

func (a *admin) userCommand() *cobra.Command {
	userName := func() *parameter { return &parameter{name: "UserName", kind: "NAME"} }
	return family("user", "Administer the users", `Administer the users: the people and programs that may use keys.

A new user may do nothing: attach a policy to it (kmsgate policy attach) and
create an access key for it (kmsgate accesskey create).`,
		a.commands(task{
			verb: "create", short: "Create a user, who may do nothing yet",
			example:   "kmsgate user create alice\nkmsgate user create billing --comments 'signs invoices'",
			arguments: []*parameter{userName()},
			flags:     []*parameter{{name: "Comments", flag: "comments", kind: "TEXT", usage: "who or what the user is"}},
			calls:     done("CreateUser", "The user {UserName} is created."),
		}, task{
			verb: "list", short: "List the users, their policies and how many access keys they have",
			example: "kmsgate user list\nkmsgate user list -o json",
			calls:   listed("ListUsers", func(l users) []user { return l.Users.User }),
		}, task{
			verb: "delete", short: "Delete a user",
			long: `Delete a user.

One who has access keys or policies is deleted with --force only, and they with
it: programs that still use those access keys are refused from then on.`,
			example:   "kmsgate user delete alice\nkmsgate user delete billing --force",
			arguments: []*parameter{userName()},
			flags:     []*parameter{{name: "Force", flag: "force", kind: "bool", usage: "delete the user's access keys, too, and detach its policies"}},
			calls:     done("DeleteUser", "The user {UserName} is deleted."),
		})...)
}

type user struct {
	UserName   string
	Comments   string
	CreateDate string
	Policies   struct{ Policy []string }
	AccessKeys int
}

type users struct {
	Users struct{ User []user }
}
