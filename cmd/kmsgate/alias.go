package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/printable"
)

func (a *admin) aliasCommand() *cobra.Command {
	existing := func() *cli.Parameter {
		return &cli.Parameter{Name: "AliasName", Kind: "alias/NAME", Complete: aliasNames}
	}
	keyFlag := func(usage string, required bool) *cli.Parameter {
		return &cli.Parameter{Name: "KeyId", Flag: "key", Kind: "KEY", Usage: usage, Required: required, Complete: keyNames}
	}
	return a.Family("alias", "Administer aliases: names for keys", `Administer aliases: names for keys, which programs can use wherever they use a KeyId.
You can point an alias to another key while programs use it.`,
		a.Commands(cli.Task{
			Verb: "create", Short: "Give a key an alias",
			Example:   "kmsgate alias create alias/invoices --key 4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11",
			Arguments: []*cli.Parameter{{Name: "AliasName", Kind: "alias/NAME", Read: readAlias}},
			Flags:     []*cli.Parameter{keyFlag("the key: its KeyId, ARN or another alias", true)},
			Calls:     cli.Done("CreateAlias", "{AliasName} names key {KeyId}."),
		}, cli.Task{
			Verb: "update", Short: "Point an alias to another key",
			Long: `Point an alias to another key. From then on, programs that use the alias get signatures
of that key.`,
			Example:   "kmsgate alias update alias/invoices --key 9a1de2cb-0d6d-4b0c-8a55-0b0f4f6f6c27",
			Arguments: []*cli.Parameter{existing()},
			Flags:     []*cli.Parameter{keyFlag("the new key: its KeyId, ARN or another alias", true)},
			Confirm:   confirmUpdateAlias,
			Calls:     cli.Done("UpdateAlias", "{AliasName} names key {KeyId}."),
		}, cli.Task{
			Verb: "delete", Short: "Delete an alias, and keep its key",
			Example:   "kmsgate alias delete alias/invoices",
			Arguments: []*cli.Parameter{existing()},
			Confirm:   cli.Existing("DescribeKey", "KeyId", "AliasName", "This deletes {AliasName}. The gateway then refuses programs that still use it."),
			Calls:     cli.Done("DeleteAlias", "{AliasName} was deleted."),
		}, cli.Task{
			Verb: "list", Short: "List all aliases, or those of one key",
			Example: "kmsgate alias list\nkmsgate alias list --key 4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11",
			Flags:   []*cli.Parameter{keyFlag("only aliases of this key", false)},
			Calls:   listAliases,
		})...)
}

// listAliases calls ListAliases, or ListAliasesByKeyId if the command line names a key.
func listAliases(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	list := target.Aliases
	if _, ok := parameters["KeyId"]; ok {
		list = target.AliasesOfKey
	}
	return cli.ListedInPages(list, "AliasName", "KeyId", "AliasArn")(ctx, c, parameters)
}

// confirmUpdateAlias names the key that programs get signatures of now.
func confirmUpdateAlias(ctx context.Context, c target.Caller, parameters map[string]string) (string, error) {
	var now kms.DescribeKeyResponse
	if err := c.Call(ctx, "DescribeKey", map[string]string{"KeyId": parameters["AliasName"]}, &now); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s now names key %s. After this change, programs that use the alias get signatures of %s.",
		printable.Text(parameters["AliasName"]), printable.Text(now.KeyMetadata.KeyId), printable.Text(parameters["KeyId"])), nil
}

// readAlias refuses a name that CreateAlias would refuse after the key was created.
func readAlias(_ *cobra.Command, values []string) (string, error) {
	return values[0], kms.CheckAliasName(values[0])
}
