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

// nameArgument returns the argument that names something new.
func nameArgument() *cli.Parameter { return &cli.Parameter{Name: "Name", Kind: "NAME"} }

// existingName returns the argument that names something that exists.
func existingName(complete cli.Completer) *cli.Parameter {
	return &cli.Parameter{Name: "Name", Kind: "NAME", Complete: complete}
}

func descriptionFlag(usage string) *cli.Parameter {
	return &cli.Parameter{Name: "Description", Flag: "description", Kind: "TEXT", Usage: usage}
}

func (a *admin) aapCommand() *cobra.Command {
	return a.Family("aap", "Administer application access points, which client keys belong to", `Administer application access points, which client keys belong to.

An access point has one to three permission policies. They say what its client keys may
do and, through network rules, from which addresses. Create in this order: the rules
(kmsgate aap rule), the policies (kmsgate aap permission), the access point, and its
client keys (kmsgate clientkey).`,
		append(a.Commands(createAapTask(), cli.Task{
			Verb: "list", Short: "List access points",
			Example: "kmsgate aap list",
			Calls:   cli.ListedInPages(target.AccessPoints, "Name", "AuthenticationMethod"),
		}, cli.Task{
			Verb: "show", Short: "Show an access point",
			Example:   "kmsgate aap show billing",
			Arguments: []*cli.Parameter{existingName(accessPointNames)},
			Calls:     cli.Answered("DescribeApplicationAccessPoint", viewOfAccessPoint),
		}, cli.Task{
			Verb: "update", Short: "Replace an access point's permission policies or its description",
			Long: `Replace an access point's permission policies or its description. The given policies
replace all that it has.`,
			Example:   "kmsgate aap update billing --permission sign-invoices --permission sign-receipts",
			Arguments: []*cli.Parameter{existingName(accessPointNames)},
			Flags:     []*cli.Parameter{permissionFlag(false), descriptionFlag("what the access point is for")},
			Groups:    cli.FlagGroups{OneOf: []string{"permission", "description"}},
			Calls:     cli.Done("UpdateApplicationAccessPoint", "Access point {Name} was updated."),
		}, cli.Task{
			Verb: "delete", Short: "Delete an access point and all its client keys",
			Long: `Delete an access point and all its client keys. The gateway then refuses programs that
still use those client keys.`,
			Example:   "kmsgate aap delete billing",
			Arguments: []*cli.Parameter{existingName(accessPointNames)},
			Confirm:   confirmDeleteAap,
			Calls:     cli.Done("DeleteApplicationAccessPoint", "Access point {Name} and its client keys were deleted."),
		}), a.permissionCommand(), a.ruleCommand())...)
}

// confirmDeleteAap names the client keys that are deleted with an access point.
func confirmDeleteAap(ctx context.Context, c target.Caller, parameters map[string]string) (string, error) {
	name := parameters["Name"]
	if err := c.Call(ctx, "DescribeApplicationAccessPoint", map[string]string{"Name": name}, nil); err != nil {
		return "", err
	}
	var keys kms.ListClientKeysResponse
	if err := c.Call(ctx, "ListClientKeys", map[string]string{"AapName": name}, &keys); err != nil {
		return "", err
	}
	question := fmt.Sprintf("This deletes access point %s", printable.Text(name))
	for _, k := range keys.ClientKeys {
		question += fmt.Sprintf("\n  - and client key %s, created %s", printable.Text(k.ClientKeyId), printable.Text(k.CreateTime))
	}
	return question, nil
}

func viewOfAccessPoint(a kms.AccessPointResponse) cli.View {
	return cli.ViewOf(a, "Name", "Description", "Policies{}", "AuthenticationMethod", "Arn")
}

func createAapTask() cli.Task {
	return cli.Task{
		Verb: "create", Short: "Create an access point",
		Example:   `kmsgate aap create billing --permission sign-invoices --description "the billing service"`,
		Arguments: []*cli.Parameter{nameArgument()},
		Flags:     []*cli.Parameter{permissionFlag(true), descriptionFlag("what the access point is for")},
		Calls:     cli.Answered("CreateApplicationAccessPoint", viewOfAccessPoint),
	}
}

func permissionFlag(required bool) *cli.Parameter {
	return &cli.Parameter{Name: "Policies", Flag: "permission", Kind: "NAME", Many: true, Most: 3, Required: required, Read: cli.JSONList, Complete: permissionNames,
		Usage: "a permission policy (kmsgate aap permission); can be given up to three times"}
}

func (a *admin) ruleCommand() *cobra.Command {
	sources := func(required bool) *cli.Parameter {
		return &cli.Parameter{Name: "SourcePrivateIp", Flag: "source", Kind: "CIDR", Many: true, Most: maxMembers, Required: required, Read: cli.JSONList,
			Usage: "an IPv4 or IPv6 address, or a prefix like 10.0.0.0/8; can be repeated"}
	}
	return cli.Family("rule", "Administer network rules: where client keys may be used", `Administer network rules: lists of addresses from which client keys may be used.
Permission policies name them.`,
		a.Commands(cli.Task{
			Verb: "create", Short: "Create a network rule",
			Example:   "kmsgate aap rule create office --source 192.0.2.0/24 --source 2001:db8::/32",
			Arguments: []*cli.Parameter{nameArgument()},
			Flags:     []*cli.Parameter{sources(true), descriptionFlag("what the addresses belong to")},
			Calls: cli.With("Type", "Private", cli.Answered("CreateNetworkRule", func(r kms.CreateNetworkRuleResponse) cli.View {
				return cli.ViewOf(r, "Name", "Description", "Type", "SourcePrivateIp{}", "Arn")
			})),
		}, cli.Task{
			Verb: "list", Short: "List network rules",
			Example: "kmsgate aap rule list",
			Calls:   cli.ListedInPages(target.NetworkRules),
		}, cli.Task{
			Verb: "show", Short: "Show a network rule",
			Example:   "kmsgate aap rule show office",
			Arguments: []*cli.Parameter{existingName(ruleNames)},
			Calls: cli.Answered("DescribeNetworkRule", func(r kms.DescribeNetworkRuleResponse) cli.View {
				return cli.ViewOf(r, "Description", "Type", "SourcePrivateIp{}", "Arn")
			}),
		}, cli.Task{
			Verb: "update", Short: "Replace a network rule's addresses or its description",
			Long: `Replace a network rule's addresses or its description. The given addresses replace all
that it has.`,
			Example:   "kmsgate aap rule update office --source 192.0.2.0/24",
			Arguments: []*cli.Parameter{existingName(ruleNames)},
			Flags:     []*cli.Parameter{sources(false), descriptionFlag("what the addresses belong to")},
			Groups:    cli.FlagGroups{OneOf: []string{"source", "description"}},
			Calls:     cli.Done("UpdateNetworkRule", "Network rule {Name} was updated."),
		}, cli.Task{
			Verb: "delete", Short: "Delete a network rule",
			Long: `Delete a network rule. The permission policies that name it no longer admit its
addresses. A policy that names no other rule then admits no address.`,
			Example:   "kmsgate aap rule delete office",
			Arguments: []*cli.Parameter{existingName(ruleNames)},
			Confirm:   cli.Existing("DescribeNetworkRule", "Name", "Name", "This deletes network rule {Name}. A permission policy that names no other rule then permits no address."),
			Calls:     cli.Done("DeleteNetworkRule", "Network rule {Name} was deleted."),
		})...)
}
