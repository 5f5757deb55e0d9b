package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
)

func (a *admin) aliasCommand() *cobra.Command {
	aliasName := func() *cli.Parameter { return &cli.Parameter{Name: "AliasName", Kind: "alias/NAME"} }
	keyFlag := func(usage string, required bool) *cli.Parameter {
		return &cli.Parameter{Name: "KeyId", Flag: "key", Kind: "KEY", Usage: usage, Required: required}
	}
	return cli.Family("alias", "Administer aliases: names for keys", `Administer aliases: names for keys, which programs can use wherever they would
use a KeyId. An alias can be pointed to another key while programs use it.`,
		a.Commands(cli.Task{
			Verb: "create", Short: "Give a key an alias",
			Example:   "kmsgate alias create alias/invoices --key 4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11",
			Arguments: []*cli.Parameter{aliasName()},
			Flags:     []*cli.Parameter{keyFlag("the key: its KeyId, ARN or another alias", true)},
			Calls:     cli.Done("CreateAlias", "{AliasName} is an alias of {KeyId}."),
		}, cli.Task{
			Verb: "update", Short: "Point an alias to another key",
			Example:   "kmsgate alias update alias/invoices --key 9a1de2cb-0d6d-4b0c-8a55-0b0f4f6f6c27",
			Arguments: []*cli.Parameter{aliasName()},
			Flags:     []*cli.Parameter{keyFlag("the key to point it to: a KeyId, ARN or another alias", true)},
			Calls:     cli.Done("UpdateAlias", "{AliasName} is an alias of {KeyId}."),
		}, cli.Task{
			Verb: "delete", Short: "Delete an alias; its key stays",
			Example:   "kmsgate alias delete alias/invoices",
			Arguments: []*cli.Parameter{aliasName()},
			Calls:     cli.Done("DeleteAlias", "{AliasName} is deleted."),
		}, cli.Task{
			Verb: "list", Short: "List all aliases, or a key's",
			Example: "kmsgate alias list\nkmsgate alias list --key 4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11",
			Flags:   []*cli.Parameter{keyFlag("only those of this key", false)},
			Calls:   listAliases,
		})...)
}

// listAliases does one of the two operations that the API has for it.
func listAliases(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	list := target.Aliases
	if _, ok := parameters["KeyId"]; ok {
		list = target.AliasesOfKey
	}
	return cli.ListedInPages(list, "AliasName", "KeyId", "AliasArn")(ctx, c, parameters)
}

// readAlias refuses what CreateAlias would refuse when the key is there already.
func readAlias(_ *cobra.Command, values []string) (string, error) {
	if !strings.HasPrefix(values[0], "alias/") {
		return "", fmt.Errorf("the alias %q has to begin with alias/", values[0])
	}
	return values[0], nil
}
