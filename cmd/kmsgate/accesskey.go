package main

import "github.com/spf13/cobra"

func (a *admin) accessKeyCommand() *cobra.Command {
	accessKeyId := func() *parameter { return &parameter{name: "AccessKeyId", kind: "ID"} }
	ofUser := userFlag("only those of this user")
	ofUser.required = false
	return family("accesskey", "Administer access keys, with which users sign their requests", `Administer access keys, with which users sign their requests.

To replace one without an interruption create a second one, give it to the
programs, see in LastUsedDate that the first is no longer used, and disable and
delete that.`,
		a.commands(task{
			verb: "create", short: "Create an access key, and print its secret, once",
			long: `Create an access key and print it, in JSON. The secret cannot be shown again.`,
			example: `kmsgate accesskey create --user alice
(umask 077; kmsgate accesskey create --user billing > billing.json)`,
			flags: []*parameter{userFlag("the user whose access key it shall be")},
			calls: answered("CreateAccessKey", func(k createdAccessKey) view {
				return view{value: k, hint: "The secret is not shown again: keep it where only the user's programs can read it."}
			}),
		}, task{
			verb: "list", short: "List access keys, without their secrets",
			example: "kmsgate accesskey list\nkmsgate accesskey list --user alice -o json",
			flags:   []*parameter{ofUser},
			calls:   listed("ListAccessKeys", func(l accessKeys) []accessKey { return l.AccessKeys.AccessKey }),
		}, task{
			verb: "disable", short: "Refuse requests of an access key until it is enabled",
			example:   "kmsgate accesskey disable LTAI5tExampleExample1234",
			arguments: []*parameter{accessKeyId()},
			calls:     with("Status", "Inactive", done("UpdateAccessKey", "The access key {AccessKeyId} is disabled.")),
		}, task{
			verb: "enable", short: "Take requests of an access key again",
			example:   "kmsgate accesskey enable LTAI5tExampleExample1234",
			arguments: []*parameter{accessKeyId()},
			calls:     with("Status", "Active", done("UpdateAccessKey", "The access key {AccessKeyId} is enabled.")),
		}, task{
			verb: "delete", short: "Delete an access key for good",
			example:   "kmsgate accesskey delete LTAI5tExampleExample1234",
			arguments: []*parameter{accessKeyId()},
			calls:     done("DeleteAccessKey", "The access key {AccessKeyId} is deleted."),
		})...)
}

// A createdAccessKey holds the secret, and is only ever printed.
type createdAccessKey struct {
	AccessKeyId     string
	AccessKeySecret string
	UserName        string
	CreateDate      string
}

type accessKey struct {
	AccessKeyId  string
	UserName     string
	Status       string
	CreateDate   string
	LastUsedDate string
}

type accessKeys struct {
	AccessKeys struct{ AccessKey []accessKey }
}
