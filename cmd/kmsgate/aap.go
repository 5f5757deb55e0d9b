package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/clientkey"
)

func nameArgument() *parameter { return &parameter{name: "Name", kind: "NAME"} }

func descriptionFlag(usage string) *parameter {
	return &parameter{name: "Description", flag: "description", kind: "TEXT", usage: usage}
}

// jsonList sends what a flag was given, several times perhaps, as a JSON list.
func jsonList(_ *cobra.Command, values []string) (string, error) {
	text, err := json.Marshal(values)
	return string(text), err
}

func (a *admin) aapCommand() *cobra.Command {
	return family("aap", "Administer application access points, which client keys belong to", `Administer application access points, which client keys belong to.

An access point has one to three permission policies, which say what its client
keys may do and, by naming network rules, from where. Create the rules and the
policies first (kmsgate aap rule, kmsgate aap policy), then the access point, then
client keys for it (kmsgate clientkey).`,
		append(a.commands(createAapTask(), task{
			verb: "list", short: "List the access points",
			example: "kmsgate aap list",
			calls: listedInPages("ListApplicationAccessPoints", func(p accessPointPage) []accessPointItem {
				return p.ApplicationAccessPoints.ApplicationAccessPoint
			}),
		}, task{
			verb: "show", short: "Show an access point",
			example:   "kmsgate aap show billing",
			arguments: []*parameter{nameArgument()},
			calls:     answered("DescribeApplicationAccessPoint", func(a accessPoint) view { return viewOf(a) }),
		}, task{
			verb: "update", short: "Give an access point other permission policies, or another description",
			long: `Give an access point other permission policies, in the place of all that it has,
or another description.`,
			example:   "kmsgate aap update billing --policy sign-invoices --policy sign-receipts",
			arguments: []*parameter{nameArgument()},
			flags:     []*parameter{aapPolicyFlag(false), descriptionFlag("what the access point is for")},
			groups:    flagGroups{oneOf: []string{"policy", "description"}},
			calls:     done("UpdateApplicationAccessPoint", "The access point {Name} is updated."),
		}, task{
			verb: "delete", short: "Delete an access point and all its client keys",
			long: `Delete an access point and all its client keys: programs that still use them are
refused from then on.`,
			example:   "kmsgate aap delete billing",
			arguments: []*parameter{nameArgument()},
			calls:     done("DeleteApplicationAccessPoint", "The access point {Name} and its client keys are deleted."),
		}), a.aapPolicyCommand(), a.ruleCommand())...)
}

func createAapTask() task {
	return task{
		verb: "create", short: "Create an access point",
		example:   `kmsgate aap create billing --policy sign-invoices --description "the billing service"`,
		arguments: []*parameter{nameArgument()},
		flags:     []*parameter{aapPolicyFlag(true), descriptionFlag("what the access point is for")},
		calls:     answered("CreateApplicationAccessPoint", func(a accessPoint) view { return viewOf(a) }),
	}
}

func aapPolicyFlag(required bool) *parameter {
	return &parameter{name: "Policies", flag: "policy", kind: "POLICY", many: true, most: 3, required: required, read: jsonList,
		usage: "a permission policy (kmsgate aap policy); can be repeated, up to three times"}
}

// aapPolicyCommand is about policies of access points, not of users.
func (a *admin) aapPolicyCommand() *cobra.Command {
	return family("policy", "Say what client keys may do", `Say what client keys may do, with permission policies. They permit to sign and
verify with keys and to get their public keys, and to get random bytes. Users have
policies of another kind: kmsgate policy.`,
		a.commands(createAapPolicyTask(), updateAapPolicyTask(), task{
			verb: "list", short: "List the permission policies",
			example: "kmsgate aap policy list",
			calls:   listedInPages("ListPolicies", func(p aapPolicyPage) []aapPolicyItem { return p.Policies.Policy }),
		}, task{
			verb: "show", short: "Show a permission policy",
			example:   "kmsgate aap policy show sign-invoices",
			arguments: []*parameter{nameArgument()},
			calls:     answered("DescribePolicy", func(p aapPolicy) view { return viewOf(p) }),
		}, task{
			verb: "delete", short: "Delete a permission policy",
			long: `Delete a permission policy. What only it permits, the client keys of access points
that have it may not do from then on.`,
			example:   "kmsgate aap policy delete sign-invoices",
			arguments: []*parameter{nameArgument()},
			calls:     done("DeletePolicy", "The permission policy {Name} is deleted."),
		})...)
}

// maxMembers is how many members most lists of the API can have.
const maxMembers = 100

// The flags that say what a permission policy permits.
func permissionFlags() []*parameter {
	return []*parameter{
		{name: keysOption, flag: "key", kind: "KEY", many: true, most: maxMembers, read: jsonList,
			usage: "a key: its KeyId, an alias or ARN, or the beginning of KeyIds and *; can be repeated. An alias is looked up now: the policy goes on to name that key"},
		{name: "Resources", flag: "all-keys", kind: "bool", read: onlyTrue("all-keys", `["key/*"]`), usage: "all keys, those to come included"},
		{name: "AccessControlRules", flag: "rule", kind: "RULE", many: true, most: maxMembers, read: readRules,
			usage: "a network rule (kmsgate aap rule) with the addresses that are let in; can be repeated. Without one all are"},
		descriptionFlag("what the policy is for"),
	}
}

// keysOption is the keys that a command line names, as a JSON list.
const keysOption = "Keys"

// onlyTrue sends something for a flag that has an effect if it is there.
func onlyTrue(flag, sent string) func(*cobra.Command, []string) (string, error) {
	return func(_ *cobra.Command, values []string) (string, error) {
		if values[0] != "true" {
			return "", fmt.Errorf("--%s=false says nothing: leave it out", flag)
		}
		return sent, nil
	}
}

func readRules(_ *cobra.Command, values []string) (string, error) {
	text, err := json.Marshal(accessControl{values})
	return string(text), err
}

func createAapPolicyTask() task {
	return task{
		verb: "create", short: "Create a permission policy",
		example: `kmsgate aap policy create sign-invoices --key alias/invoices --rule office --rule datacenter
kmsgate aap policy create sign-anything --all-keys --description "for the test bench"`,
		arguments: []*parameter{nameArgument()},
		flags:     permissionFlags(),
		groups:    flagGroups{oneOf: []string{"key", "all-keys"}, apart: [][]string{{"key", "all-keys"}}},
		calls: with("Permissions", clientkey.Permissions,
			withKeys(answered("CreatePolicy", func(p createdAapPolicy) view { return viewOf(p) }))),
	}
}

func updateAapPolicyTask() task {
	return task{
		verb: "update", short: "Give a permission policy other keys, network rules, or another description",
		long: `Give a permission policy other keys, in the place of all that it has, other network
rules, in the place of all that it has, or another description.`,
		example: `kmsgate aap policy update sign-invoices --rule datacenter
kmsgate aap policy update sign-invoices --key alias/invoices --any-source`,
		arguments: []*parameter{nameArgument()},
		flags: append(permissionFlags(), &parameter{name: "AccessControlRules", flag: "any-source", kind: "bool",
			read: onlyTrue("any-source", `{"NetworkRules":[]}`), usage: "let all addresses in, and no longer only those of network rules"}),
		groups: flagGroups{
			oneOf: []string{"key", "all-keys", "rule", "any-source", "description"},
			apart: [][]string{{"key", "all-keys"}, {"rule", "any-source"}},
		},
		calls: withKeys(done("UpdatePolicy", "The permission policy {Name} is updated.")),
	}
}

// withKeys makes Resources of the keys that the command line names. Policies name
// keys by their KeyIds only, so whatever else names one is looked up.
func withKeys(then calls) calls {
	return func(ctx context.Context, c caller, parameters map[string]string) (view, error) {
		request := maps.Clone(parameters)
		delete(request, keysOption)
		var keys, resources []string
		if text, ok := parameters[keysOption]; ok {
			if err := json.Unmarshal([]byte(text), &keys); err != nil {
				return view{}, err
			}
		}
		for _, key := range keys {
			keyId, err := keyIdOf(ctx, c, key)
			if err != nil {
				return view{}, err
			}
			resources = append(resources, "key/"+keyId)
		}
		if resources != nil {
			text, err := json.Marshal(resources)
			if err != nil {
				return view{}, err
			}
			request["Resources"] = string(text)
		}
		return then(ctx, c, request)
	}
}

// keyIdOf gives the id of a key that there is; a pattern is let be.
func keyIdOf(ctx context.Context, c caller, key string) (string, error) {
	if strings.HasSuffix(key, "*") {
		return key, nil
	}
	var described describedKey
	err := c.Call(ctx, "DescribeKey", map[string]string{"KeyId": key}, &described)
	return described.KeyMetadata.KeyId, err
}

func (a *admin) ruleCommand() *cobra.Command {
	sources := func(required bool) *parameter {
		return &parameter{name: "SourcePrivateIp", flag: "source", kind: "CIDR", many: true, most: maxMembers, required: required, read: jsonList,
			usage: "an address or a prefix like 10.0.0.0/8, of IPv4 or IPv6; can be repeated"}
	}
	return family("rule", "Say from where client keys can be used", `Say from where client keys can be used, with network rules that permission policies
name.`,
		a.commands(task{
			verb: "create", short: "Create a network rule",
			example:   "kmsgate aap rule create office --source 192.0.2.0/24 --source 2001:db8::/32",
			arguments: []*parameter{nameArgument()},
			flags:     []*parameter{sources(true), descriptionFlag("what the addresses are")},
			calls:     with("Type", "Private", answered("CreateNetworkRule", func(r createdRule) view { return viewOf(r) })),
		}, task{
			verb: "list", short: "List the network rules",
			example: "kmsgate aap rule list",
			calls:   listedInPages("ListNetworkRules", func(p rulePage) []ruleItem { return p.NetworkRules.NetworkRule }),
		}, task{
			verb: "show", short: "Show a network rule",
			example:   "kmsgate aap rule show office",
			arguments: []*parameter{nameArgument()},
			calls:     answered("DescribeNetworkRule", func(r rule) view { return viewOf(r) }),
		}, task{
			verb: "update", short: "Give a network rule other addresses, or another description",
			long: `Give a network rule other addresses, in the place of all that it has, or another
description.`,
			example:   "kmsgate aap rule update office --source 192.0.2.0/24",
			arguments: []*parameter{nameArgument()},
			flags:     []*parameter{sources(false), descriptionFlag("what the addresses are")},
			groups:    flagGroups{oneOf: []string{"source", "description"}},
			calls:     done("UpdateNetworkRule", "The network rule {Name} is updated."),
		}, task{
			verb: "delete", short: "Delete a network rule",
			long: `Delete a network rule. A permission policy that names it lets its addresses in no
longer, and nobody if it names no other.`,
			example:   "kmsgate aap rule delete office",
			arguments: []*parameter{nameArgument()},
			calls:     done("DeleteNetworkRule", "The network rule {Name} is deleted."),
		})...)
}

// texts is a list that the API answers with as JSON in a string.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error { return inString(b, (*[]string)(t)) }

// accessControl is AccessControlRules, which the API answers with as JSON in a
// string.
type accessControl struct{ NetworkRules []string }

func (a *accessControl) UnmarshalJSON(b []byte) error {
	type plain accessControl
	return inString(b, (*plain)(a))
}

func inString(b []byte, into any) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), into)
}

type accessPoint struct {
	Name                 string
	Description          string
	Policies             texts
	AuthenticationMethod string
	Arn                  string
}

type accessPointItem struct {
	Name                 string
	AuthenticationMethod string
}

type accessPointPage struct {
	ApplicationAccessPoints struct{ ApplicationAccessPoint []accessPointItem }
	pageInfo
}

type aapPolicy struct {
	Name               string
	Description        string
	Permissions        []string
	Resources          []string
	AccessControlRules accessControl
	KmsInstance        string
	Arn                string
}

// A createdAapPolicy is the same in the answer to its creation, where two lists are
// in strings.
type createdAapPolicy struct {
	Name               string
	Description        string
	Permissions        texts
	Resources          texts
	AccessControlRules accessControl
	KmsInstance        string
	Arn                string
}

type aapPolicyItem struct{ Name string }

type aapPolicyPage struct {
	Policies struct{ Policy []aapPolicyItem }
	pageInfo
}

type rule struct {
	Description     string
	Type            string
	SourcePrivateIp texts
	Arn             string
}

type createdRule struct {
	Name string
	rule
}

type ruleItem struct {
	Name string
	Type string
}

type rulePage struct {
	NetworkRules struct{ NetworkRule []ruleItem }
	pageInfo
}
