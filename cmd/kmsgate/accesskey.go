package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

func (a *admin) accessKeyCommand() *cobra.Command {
	accessKeyId := func() *cli.Parameter { return &cli.Parameter{Name: "AccessKeyId", Kind: "ID"} }
	ofUser := userFlag("only those of this user")
	ofUser.Required = false
	return cli.Family("accesskey", "Administer access keys, with which users sign their requests", `Administer access keys, with which users sign their requests.

To replace one without an interruption create a second one, give it to the
programs, see in LastUsedDate that the first is no longer used, and disable and
delete that.`,
		a.Commands(cli.Task{
			Verb: "create", Short: "Create an access key, and print its secret, once",
			Long: `Create an access key and print it, in JSON. The secret cannot be shown again.`,
			Example: `kmsgate accesskey create --user alice
(umask 077; kmsgate accesskey create --user billing > billing.json)`,
			Flags: []*cli.Parameter{userFlag("the user whom the access key is for")},
			Calls: cli.Answered("CreateAccessKey", func(k kms.CreateAccessKeyResponse) cli.View {
				shown := cli.ViewOf(k, "AccessKeyId", "AccessKeySecret", "UserName", "CreateDate")
				return cli.View{Value: shown.Value, Hint: "The secret is not shown again: keep it where only the user's programs can read it."}
			}),
		}, cli.Task{
			Verb: "list", Short: "List access keys, without their secrets",
			Example: "kmsgate accesskey list\nkmsgate accesskey list --user alice -o json",
			Flags:   []*cli.Parameter{ofUser},
			Calls:   cli.Listed("ListAccessKeys", func(l kms.ListAccessKeysResponse) []kms.AccessKeyItem { return l.AccessKeys.AccessKey }),
		}, cli.Task{
			Verb: "disable", Short: "Refuse requests of an access key until it is enabled",
			Example:   "kmsgate accesskey disable LTAI5tExampleExample1234",
			Arguments: []*cli.Parameter{accessKeyId()},
			Calls:     cli.With("Status", "Inactive", cli.Done("UpdateAccessKey", "The access key {AccessKeyId} is disabled.")),
		}, cli.Task{
			Verb: "enable", Short: "Take requests of an access key again",
			Example:   "kmsgate accesskey enable LTAI5tExampleExample1234",
			Arguments: []*cli.Parameter{accessKeyId()},
			Calls:     cli.With("Status", "Active", cli.Done("UpdateAccessKey", "The access key {AccessKeyId} is enabled.")),
		}, cli.Task{
			Verb: "delete", Short: "Delete an access key for good",
			Example:   "kmsgate accesskey delete LTAI5tExampleExample1234",
			Arguments: []*cli.Parameter{accessKeyId()},
			Calls:     cli.Done("DeleteAccessKey", "The access key {AccessKeyId} is deleted."),
		})...)
}
