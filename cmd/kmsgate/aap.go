package main

import (
	"context"
	"encoding/json"
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/clientkey"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

func nameArgument() *cli.Parameter { return &cli.Parameter{Name: "Name", Kind: "NAME"} }

func descriptionFlag(usage string) *cli.Parameter {
	return &cli.Parameter{Name: "Description", Flag: "description", Kind: "TEXT", Usage: usage}
}

func (a *admin) aapCommand() *cobra.Command {
	return cli.Family("aap", "Administer application access points, which client keys belong to", `Administer application access points, which client keys belong to.

An access point has one to three permission policies, which say what its client
keys may do and, by naming network rules, from where. Create the rules and the
policies first (kmsgate aap rule, kmsgate aap policy), then the access point, then
client keys for it (kmsgate clientkey).`,
		append(a.Commands(createAapTask(), cli.Task{
			Verb: "list", Short: "List the access points",
			Example: "kmsgate aap list",
			Calls:   cli.ListedInPages(target.AccessPoints, "Name", "AuthenticationMethod"),
		}, cli.Task{
			Verb: "show", Short: "Show an access point",
			Example:   "kmsgate aap show billing",
			Arguments: []*cli.Parameter{nameArgument()},
			Calls:     cli.Answered("DescribeApplicationAccessPoint", viewOfAccessPoint),
		}, cli.Task{
			Verb: "update", Short: "Give an access point other permission policies, or another description",
			Long: `Give an access point other permission policies, which replace all that it has, or
another description.`,
			Example:   "kmsgate aap update billing --policy sign-invoices --policy sign-receipts",
			Arguments: []*cli.Parameter{nameArgument()},
			Flags:     []*cli.Parameter{aapPolicyFlag(false), descriptionFlag("what the access point is for")},
			Groups:    cli.FlagGroups{OneOf: []string{"policy", "description"}},
			Calls:     cli.Done("UpdateApplicationAccessPoint", "The access point {Name} is updated."),
		}, cli.Task{
			Verb: "delete", Short: "Delete an access point and all its client keys",
			Long: `Delete an access point and all its client keys: programs that still use them are
refused from then on.`,
			Example:   "kmsgate aap delete billing",
			Arguments: []*cli.Parameter{nameArgument()},
			Calls:     cli.Done("DeleteApplicationAccessPoint", "The access point {Name} and its client keys are deleted."),
		}), a.aapPolicyCommand(), a.ruleCommand())...)
}

func viewOfAccessPoint(a kms.AccessPointResponse) cli.View {
	return cli.ViewOf(a, "Name", "Description", "Policies{}", "AuthenticationMethod", "Arn")
}

func createAapTask() cli.Task {
	return cli.Task{
		Verb: "create", Short: "Create an access point",
		Example:   `kmsgate aap create billing --policy sign-invoices --description "the billing service"`,
		Arguments: []*cli.Parameter{nameArgument()},
		Flags:     []*cli.Parameter{aapPolicyFlag(true), descriptionFlag("what the access point is for")},
		Calls:     cli.Answered("CreateApplicationAccessPoint", viewOfAccessPoint),
	}
}

func aapPolicyFlag(required bool) *cli.Parameter {
	return &cli.Parameter{Name: "Policies", Flag: "policy", Kind: "POLICY", Many: true, Most: 3, Required: required, Read: cli.JSONList,
		Usage: "a permission policy (kmsgate aap policy); can be repeated, up to three times"}
}

// aapPolicyCommand is about policies of access points, not of users.
func (a *admin) aapPolicyCommand() *cobra.Command {
	return cli.Family("policy", "Say what client keys may do", `Say what client keys may do, with permission policies. They permit signing and
verifying with keys, reading public keys, and getting random bytes. Users have
policies of another kind: kmsgate policy.`,
		a.Commands(createAapPolicyTask(), updateAapPolicyTask(), cli.Task{
			Verb: "list", Short: "List the permission policies",
			Example: "kmsgate aap policy list",
			Calls:   cli.ListedInPages(target.PermissionPolicies, "Name"),
		}, cli.Task{
			Verb: "show", Short: "Show a permission policy",
			Example:   "kmsgate aap policy show sign-invoices",
			Arguments: []*cli.Parameter{nameArgument()},
			Calls: cli.Answered("DescribePolicy", func(p kms.DescribePolicyResponse) cli.View {
				return cli.ViewOf(p, "Name", "Description", "Permissions", "Resources", "AccessControlRules{}", "KmsInstance", "Arn")
			}),
		}, cli.Task{
			Verb: "delete", Short: "Delete a permission policy",
			Long: `Delete a permission policy. The client keys of access points that have it lose at once
what no other policy of theirs permits.`,
			Example:   "kmsgate aap policy delete sign-invoices",
			Arguments: []*cli.Parameter{nameArgument()},
			Calls:     cli.Done("DeletePolicy", "The permission policy {Name} is deleted."),
		})...)
}

// maxMembers is how many members most lists of the API can have.
const maxMembers = 100

// The flags that say what a permission policy permits.
func permissionFlags() []*cli.Parameter {
	return []*cli.Parameter{
		{Name: keysOption, Flag: "key", Kind: "KEY", Many: true, Most: maxMembers, Read: cli.JSONList,
			Usage: "a key: its KeyId, an alias or ARN, or the beginning of KeyIds and *; can be repeated. An alias is looked up once: the policy keeps the KeyId"},
		{Name: "Resources", Flag: "all-keys", Kind: "bool", Read: cli.OnlyTrue("all-keys", `["key/*"]`), Usage: "all keys, including those made later"},
		{Name: "AccessControlRules", Flag: "rule", Kind: "RULE", Many: true, Most: maxMembers, Read: readRules,
			Usage: "a network rule (kmsgate aap rule) with the addresses that are let in; can be repeated. A policy without rules lets all addresses in"},
		descriptionFlag("what the policy is for"),
	}
}

// keysOption is the keys that a command line names, as a JSON list.
const keysOption = "Keys"

func readRules(_ *cobra.Command, values []string) (string, error) {
	text, err := json.Marshal(struct{ NetworkRules []string }{values})
	return string(text), err
}

func createAapPolicyTask() cli.Task {
	return cli.Task{
		Verb: "create", Short: "Create a permission policy",
		Example: `kmsgate aap policy create sign-invoices --key alias/invoices --rule office --rule datacenter
kmsgate aap policy create sign-anything --all-keys --description "for the test bench"`,
		Arguments: []*cli.Parameter{nameArgument()},
		Flags:     permissionFlags(),
		Groups:    cli.FlagGroups{OneOf: []string{"key", "all-keys"}, Apart: [][]string{{"key", "all-keys"}}},
		Calls: cli.With("Permissions", clientkey.Permissions,
			withKeys(cli.Answered("CreatePolicy", func(p kms.CreatePolicyResponse) cli.View {
				return cli.ViewOf(p, "Name", "Description", "Permissions{}", "Resources{}", "AccessControlRules{}", "KmsInstance", "Arn")
			}))),
	}
}

func updateAapPolicyTask() cli.Task {
	return cli.Task{
		Verb: "update", Short: "Give a permission policy other keys, network rules, or another description",
		Long: `Give a permission policy other keys, other network rules or another description.
New keys replace all that it has, and new rules all that it has.`,
		Example: `kmsgate aap policy update sign-invoices --rule datacenter
kmsgate aap policy update sign-invoices --key alias/invoices --any-source`,
		Arguments: []*cli.Parameter{nameArgument()},
		Flags: append(permissionFlags(), &cli.Parameter{Name: "AccessControlRules", Flag: "any-source", Kind: "bool",
			Read: cli.OnlyTrue("any-source", `{"NetworkRules":[]}`), Usage: "let all addresses in, and no longer only those of network rules"}),
		Groups: cli.FlagGroups{
			OneOf: []string{"key", "all-keys", "rule", "any-source", "description"},
			Apart: [][]string{{"key", "all-keys"}, {"rule", "any-source"}},
		},
		Calls: withKeys(cli.Done("UpdatePolicy", "The permission policy {Name} is updated.")),
	}
}

// withKeys makes Resources of the keys that the command line names. Policies name
// keys by their KeyIds only, so whatever else names one is looked up.
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

// keyIdOf gives the id of a key that there is; a pattern is let be.
func keyIdOf(ctx context.Context, c target.Caller, key string) (string, error) {
	if strings.HasSuffix(key, "*") {
		return key, nil
	}
	var described kms.DescribeKeyResponse
	err := c.Call(ctx, "DescribeKey", map[string]string{"KeyId": key}, &described)
	return described.KeyMetadata.KeyId, err
}

func (a *admin) ruleCommand() *cobra.Command {
	sources := func(required bool) *cli.Parameter {
		return &cli.Parameter{Name: "SourcePrivateIp", Flag: "source", Kind: "CIDR", Many: true, Most: maxMembers, Required: required, Read: cli.JSONList,
			Usage: "an address or a prefix like 10.0.0.0/8, of IPv4 or IPv6; can be repeated"}
	}
	return cli.Family("rule", "Say from where client keys can be used", `Say from where client keys can be used, with network rules that permission policies
name.`,
		a.Commands(cli.Task{
			Verb: "create", Short: "Create a network rule",
			Example:   "kmsgate aap rule create office --source 192.0.2.0/24 --source 2001:db8::/32",
			Arguments: []*cli.Parameter{nameArgument()},
			Flags:     []*cli.Parameter{sources(true), descriptionFlag("what the addresses are")},
			Calls: cli.With("Type", "Private", cli.Answered("CreateNetworkRule", func(r kms.CreateNetworkRuleResponse) cli.View {
				return cli.ViewOf(r, "Name", "Description", "Type", "SourcePrivateIp{}", "Arn")
			})),
		}, cli.Task{
			Verb: "list", Short: "List the network rules",
			Example: "kmsgate aap rule list",
			Calls:   cli.ListedInPages(target.NetworkRules),
		}, cli.Task{
			Verb: "show", Short: "Show a network rule",
			Example:   "kmsgate aap rule show office",
			Arguments: []*cli.Parameter{nameArgument()},
			Calls: cli.Answered("DescribeNetworkRule", func(r kms.DescribeNetworkRuleResponse) cli.View {
				return cli.ViewOf(r, "Description", "Type", "SourcePrivateIp{}", "Arn")
			}),
		}, cli.Task{
			Verb: "update", Short: "Give a network rule other addresses, or another description",
			Long: `Give a network rule other addresses, which replace all that it has, or another
description.`,
			Example:   "kmsgate aap rule update office --source 192.0.2.0/24",
			Arguments: []*cli.Parameter{nameArgument()},
			Flags:     []*cli.Parameter{sources(false), descriptionFlag("what the addresses are")},
			Groups:    cli.FlagGroups{OneOf: []string{"source", "description"}},
			Calls:     cli.Done("UpdateNetworkRule", "The network rule {Name} is updated."),
		}, cli.Task{
			Verb: "delete", Short: "Delete a network rule",
			Long: `Delete a network rule. Permission policies that name it no longer let its addresses
in; one that names no other rule lets nobody in.`,
			Example:   "kmsgate aap rule delete office",
			Arguments: []*cli.Parameter{nameArgument()},
			Calls:     cli.Done("DeleteNetworkRule", "The network rule {Name} is deleted."),
		})...)
}
