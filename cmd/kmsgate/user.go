package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// userFlag returns the flag that names a user.
func userFlag(usage string) *cli.Parameter {
	return &cli.Parameter{Name: "UserName", Flag: "user", Kind: "NAME", Usage: usage, Required: true, Complete: userNames}
}

func (a *admin) userCommand() *cobra.Command {
	existing := func() *cli.Parameter {
		return &cli.Parameter{Name: "UserName", Kind: "NAME", Complete: userNames}
	}
	return a.Family("user", "Administer users", `Administer users: the people and programs that may use keys.

A new user may do nothing. Attach a policy to it (kmsgate policy attach) and create
an access key for it (kmsgate accesskey create).`,
		a.Commands(cli.Task{
			Verb: "create", Short: "Create a user, who may do nothing yet",
			Example:   "kmsgate user create alice\nkmsgate user create billing --description 'signs invoices'",
			Arguments: []*cli.Parameter{{Name: "UserName", Kind: "NAME"}},
			Flags:     []*cli.Parameter{{Name: "Comments", Flag: "description", Kind: "TEXT", Usage: "who or what the user is"}},
			Calls:     cli.Done("CreateUser", "User {UserName} was created."),
		}, cli.Task{
			Verb: "list", Short: "List users, their policies and the number of their access keys",
			Example: "kmsgate user list\nkmsgate user list -o json",
			Calls:   cli.Listed("ListUsers", func(l kms.ListUsersResponse) []kms.UserItem { return l.Users.User }),
		}, cli.Task{
			Verb: "show", Short: "Show a user, its policies and its access keys",
			Example:   "kmsgate user show billing",
			Arguments: []*cli.Parameter{existing()},
			Calls:     showUser,
		}, cli.Task{
			Verb: "delete", Short: "Delete a user with its access keys",
			Long: `Delete a user with its access keys, and detach its policies. The gateway then refuses
programs that still use those access keys.`,
			Example:   "kmsgate user delete alice\nkmsgate user delete billing --yes",
			Arguments: []*cli.Parameter{existing()},
			Confirm:   confirmDeleteUser,
			Calls:     cli.With("Force", "true", cli.Done("DeleteUser", "User {UserName} was deleted.")),
		})...)
}

// A userView is a user as `kmsgate user show` shows it.
type userView struct {
	kms.UserItem
	AccessKeys []kms.AccessKeyItem
}

// findUser looks a user up. The API only lists users.
func findUser(ctx context.Context, c target.Caller, name string) (u userView, err error) {
	var users kms.ListUsersResponse
	if err := c.Call(ctx, "ListUsers", nil, &users); err != nil {
		return u, err
	}
	i := slices.IndexFunc(users.Users.User, func(u kms.UserItem) bool { return u.UserName == name })
	if i < 0 {
		return u, fmt.Errorf("user %q: %w", name, kms.ErrUserNotFound)
	}
	u.UserItem = users.Users.User[i]
	var keys kms.ListAccessKeysResponse
	err = c.Call(ctx, "ListAccessKeys", map[string]string{"UserName": name}, &keys)
	u.AccessKeys = keys.AccessKeys.AccessKey
	return u, err
}

func showUser(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	u, err := findUser(ctx, c, parameters["UserName"])
	if err != nil {
		return cli.View{}, err
	}
	v := cli.ViewOf(u.UserItem)
	tables := [][][]string{v.Rows}
	if len(u.AccessKeys) > 0 {
		tables = append(tables, cli.Table(u.AccessKeys, "AccessKeyId", "Status", "CreateDate", "LastUsedDate"))
	}
	text, err := cli.Align(tables...)
	return cli.View{Value: cli.ViewOf(u, "UserName", "Comments", "CreateDate", "Policies", "AccessKeys").Value, Text: text}, err
}

func confirmDeleteUser(ctx context.Context, c target.Caller, parameters map[string]string) (string, error) {
	u, err := findUser(ctx, c, parameters["UserName"])
	if err != nil {
		return "", err
	}
	question := fmt.Sprintf("This deletes user %s", printable.Text(u.UserName))
	for _, k := range u.AccessKeys {
		question += fmt.Sprintf("\n  - and access key %s, last used %s", k.AccessKeyId, usedAt(k.LastUsedDate))
	}
	return question, nil
}

// usedAt returns a point in time that the API names, or "never".
func usedAt(date string) string {
	if date == "" {
		return "never"
	}
	return printable.Text(date)
}
