package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func (a *admin) aliasCommand() *cobra.Command {
	aliasName := func() *parameter { return &parameter{name: "AliasName", kind: "alias/NAME"} }
	keyFlag := func(usage string, required bool) *parameter {
		return &parameter{name: "KeyId", flag: "key", kind: "KEY", usage: usage, required: required}
	}
	return family("alias", "Administer aliases: names for keys", `Administer aliases: names for keys, which programs can use wherever they would
use a KeyId. An alias can be pointed to another key while programs use it.`,
		a.commands(task{
			verb: "create", short: "Give a key an alias",
			example:   "kmsgate alias create alias/invoices --key 4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11",
			arguments: []*parameter{aliasName()},
			flags:     []*parameter{keyFlag("the key: its KeyId, ARN or another alias", true)},
			calls:     done("CreateAlias", "{AliasName} is an alias of {KeyId}."),
		}, task{
			verb: "update", short: "Point an alias to another key",
			example:   "kmsgate alias update alias/invoices --key 9a1de2cb-0d6d-4b0c-8a55-0b0f4f6f6c27",
			arguments: []*parameter{aliasName()},
			flags:     []*parameter{keyFlag("the key that it shall be of: a KeyId, ARN or another alias", true)},
			calls:     done("UpdateAlias", "{AliasName} is an alias of {KeyId}."),
		}, task{
			verb: "delete", short: "Delete an alias; its key stays",
			example:   "kmsgate alias delete alias/invoices",
			arguments: []*parameter{aliasName()},
			calls:     done("DeleteAlias", "{AliasName} is deleted."),
		}, task{
			verb: "list", short: "List all aliases, or a key's",
			example: "kmsgate alias list\nkmsgate alias list --key 4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11",
			flags:   []*parameter{keyFlag("only those of this key", false)},
			calls:   listAliases,
		})...)
}

// listAliases does one of the two operations that the API has for it.
func listAliases(ctx context.Context, c caller, parameters map[string]string) (view, error) {
	action := "ListAliases"
	if _, ok := parameters["KeyId"]; ok {
		action = "ListAliasesByKeyId"
	}
	return listedInPages(action, func(p aliasPage) []alias { return p.Aliases.Alias })(ctx, c, parameters)
}

// readAlias refuses what CreateAlias would refuse when the key is there already.
func readAlias(_ *cobra.Command, values []string) (string, error) {
	if !strings.HasPrefix(values[0], "alias/") {
		return "", fmt.Errorf("the alias %q has to begin with alias/", values[0])
	}
	return values[0], nil
}

type alias struct {
	AliasName string
	KeyId     string
	AliasArn  string
}

type aliasPage struct {
	Aliases struct{ Alias []alias }
	pageInfo
}
