package main

import (
	"context"
	"encoding/json"
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/clientkey"
)

// permissionCommand administers what KMS calls permission policies.
func (a *admin) permissionCommand() *cobra.Command {
	return cli.Family("permission", "Administer permission policies: what client keys may do", `Administer permission policies: what the client keys of access points may do. A policy
permits signing and verifying with keys, reading public keys and getting random bytes.
RAM policies permit what users may do (kmsgate policy).`,
		a.Commands(createPermissionTask(), updatePermissionTask(), cli.Task{
			Verb: "list", Short: "List permission policies",
			Example: "kmsgate aap permission list",
			Calls:   cli.ListedInPages(target.PermissionPolicies, "Name"),
		}, cli.Task{
			Verb: "show", Short: "Show a permission policy",
			Example:   "kmsgate aap permission show sign-invoices",
			Arguments: []*cli.Parameter{existingName(permissionNames)},
			Calls: cli.Answered("DescribePolicy", func(p kms.DescribePolicyResponse) cli.View {
				return cli.ViewOf(p, "Name", "Description", "Permissions", "Resources", "AccessControlRules{}", "KmsInstance", "Arn")
			}),
		}, cli.Task{
			Verb: "delete", Short: "Delete a permission policy",
			Long: `Delete a permission policy. The client keys of its access points then may do only what
other policies of the access point permit.`,
			Example:   "kmsgate aap permission delete sign-invoices",
			Arguments: []*cli.Parameter{existingName(permissionNames)},
			Confirm:   cli.Existing("DescribePolicy", "Name", "Name", "This deletes permission policy {Name}. Client keys may no longer do what only it permits."),
			Calls:     cli.Done("DeletePolicy", "Permission policy {Name} was deleted."),
		})...)
}

// maxMembers is the largest number of members of most lists of the API.
const maxMembers = 100

// permissionFlags returns the flags that say what a permission policy permits.
func permissionFlags() []*cli.Parameter {
	return []*cli.Parameter{
		{Name: keysOption, Flag: "key", Kind: "KEY", Many: true, Most: maxMembers, Read: cli.JSONList, Complete: keyNames,
			Usage: "a key: its KeyId, an alias, an ARN, or the beginning of KeyIds followed by *; can be repeated. For an alias, the policy stores the KeyId that it names now"},
		{Name: "Resources", Flag: "all-keys", Kind: "bool", Read: cli.OnlyTrue("all-keys", `["key/*"]`), Usage: "all keys, including those created later"},
		{Name: "AccessControlRules", Flag: "rule", Kind: "NAME", Many: true, Most: maxMembers, Read: readRules, Complete: ruleNames,
			Usage: "a network rule (kmsgate aap rule) with the addresses that may connect; can be repeated. Without rules, all addresses may connect"},
		descriptionFlag("what the policy is for"),
	}
}

// keysOption is the parameter with the keys that a command line names, as a JSON list.
const keysOption = "Keys"

func readRules(_ *cobra.Command, values []string) (string, error) {
	text, err := json.Marshal(struct{ NetworkRules []string }{values})
	return string(text), err
}

func createPermissionTask() cli.Task {
	return cli.Task{
		Verb: "create", Short: "Create a permission policy",
		Example: `kmsgate aap permission create sign-invoices --key alias/invoices --rule office --rule datacenter
kmsgate aap permission create sign-anything --all-keys --description "for the test bench"`,
		Arguments: []*cli.Parameter{nameArgument()},
		Flags:     permissionFlags(),
		Groups:    cli.FlagGroups{OneOf: []string{"key", "all-keys"}, Apart: [][]string{{"key", "all-keys"}}},
		Calls: cli.With("Permissions", clientkey.Permissions,
			withKeys(cli.Answered("CreatePolicy", func(p kms.CreatePolicyResponse) cli.View {
				return cli.ViewOf(p, "Name", "Description", "Permissions{}", "Resources{}", "AccessControlRules{}", "KmsInstance", "Arn")
			}))),
	}
}

func updatePermissionTask() cli.Task {
	return cli.Task{
		Verb: "update", Short: "Replace a permission policy's keys, network rules or description",
		Long: `Replace a permission policy's keys, network rules or description. The given keys replace
all its keys, and the given rules all its rules.`,
		Example: `kmsgate aap permission update sign-invoices --rule datacenter
kmsgate aap permission update sign-invoices --key alias/invoices --any-source`,
		Arguments: []*cli.Parameter{existingName(permissionNames)},
		Flags: append(permissionFlags(), &cli.Parameter{Name: "AccessControlRules", Flag: "any-source", Kind: "bool",
			Read: cli.OnlyTrue("any-source", `{"NetworkRules":[]}`), Usage: "let all addresses connect, instead of those of network rules"}),
		Groups: cli.FlagGroups{
			OneOf: []string{"key", "all-keys", "rule", "any-source", "description"},
			Apart: [][]string{{"key", "all-keys"}, {"rule", "any-source"}},
		},
		Calls: withKeys(cli.Done("UpdatePolicy", "Permission policy {Name} was updated.")),
	}
}

// withKeys turns the keys that the command line names into Resources. A permission policy
// names keys by their KeyIds only, so every other name of a key is looked up.
func withKeys(then cli.Calls) cli.Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
		request := maps.Clone(parameters)
		delete(request, keysOption)
		var keys, resources []string
		if text, ok := parameters[keysOption]; ok {
			if err := json.Unmarshal([]byte(text), &keys); err != nil {
				return cli.View{}, err
			}
		}
		for _, key := range keys {
			keyId, err := keyIdOf(ctx, c, key)
			if err != nil {
				return cli.View{}, err
			}
			resources = append(resources, "key/"+keyId)
		}
		if resources != nil {
			text, err := json.Marshal(resources)
			if err != nil {
				return cli.View{}, err
			}
			request["Resources"] = string(text)
		}
		return then(ctx, c, request)
	}
}

// keyIdOf returns the KeyId of an existing key. A pattern is returned unchanged.
func keyIdOf(ctx context.Context, c target.Caller, key string) (string, error) {
	if strings.HasSuffix(key, "*") {
		return key, nil
	}
	var described kms.DescribeKeyResponse
	err := c.Call(ctx, "DescribeKey", map[string]string{"KeyId": key}, &described)
	return described.KeyMetadata.KeyId, err
}
