package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

func (a *admin) accessKeyCommand() *cobra.Command {
	accessKeyId := func() *cli.Parameter { return &cli.Parameter{Name: "AccessKeyId", Kind: "ID", Complete: accessKeyIds} }
	ofUser := userFlag("only access keys of this user")
	ofUser.Required = false
	return a.Family("accesskey", "Administer access keys, with which users sign their requests", `Administer access keys, with which users sign their requests.

To replace one without interruption: create a second one, give it to the programs, wait
until LastUsedDate of the first one stays the same, then disable and delete the first.`,
		a.Commands(cli.Task{
			Verb: "create", Short: "Create an access key, and print its secret once",
			Long: `Create an access key, and print it as JSON. The secret cannot be shown again.`,
			Example: `kmsgate accesskey create --user alice
(umask 077; kmsgate accesskey create --user billing > billing.json)`,
			Flags: []*cli.Parameter{userFlag("the user who gets the access key")},
			Calls: cli.ToOpenOutput(cli.Answered("CreateAccessKey", func(k kms.CreateAccessKeyResponse) cli.View {
				shown := cli.ViewOf(k, "AccessKeyId", "AccessKeySecret", "UserName", "CreateDate")
				return cli.View{Value: shown.Value, Next: "The secret is not shown again: keep it where only the user's programs can read it."}
			})),
		}, cli.Task{
			Verb: "list", Short: "List access keys, without their secrets",
			Example: "kmsgate accesskey list\nkmsgate accesskey list --user alice -o json",
			Flags:   []*cli.Parameter{ofUser},
			Calls:   cli.Listed("ListAccessKeys", func(l kms.ListAccessKeysResponse) []kms.AccessKeyItem { return l.AccessKeys.AccessKey }),
		}, cli.Task{
			Verb: "disable", Short: "Refuse the requests of an access key until it is enabled",
			Example:   "kmsgate accesskey disable LTAI5tExampleExample1234",
			Arguments: []*cli.Parameter{accessKeyId()},
			Calls:     cli.With("Status", "Inactive", cli.Done("UpdateAccessKey", "Access key {AccessKeyId} is disabled.")),
		}, cli.Task{
			Verb: "enable", Short: "Accept the requests of a disabled access key again",
			Example:   "kmsgate accesskey enable LTAI5tExampleExample1234",
			Arguments: []*cli.Parameter{accessKeyId()},
			Calls:     cli.With("Status", "Active", cli.Done("UpdateAccessKey", "Access key {AccessKeyId} is enabled.")),
		}, cli.Task{
			Verb: "delete", Short: "Delete an access key permanently",
			Example:   "kmsgate accesskey delete LTAI5tExampleExample1234",
			Arguments: []*cli.Parameter{accessKeyId()},
			Confirm:   cli.Ask("This deletes access key {AccessKeyId}. The gateway then refuses programs that still use it."),
			Calls:     cli.Done("DeleteAccessKey", "Access key {AccessKeyId} was deleted."),
		})...)
}
