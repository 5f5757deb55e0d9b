package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/policy"
)

func (a *admin) policyCommand() *cobra.Command {
	existing := func() *cli.Parameter {
		return &cli.Parameter{Name: "PolicyName", Kind: "NAME", Complete: policyNames}
	}
	documentFile := func() *cli.Parameter {
		return &cli.Parameter{Name: "PolicyDocument", Flag: "file", Kind: "FILE", Required: true, Read: cli.ReadJSON,
			Usage: "the policy's document, in JSON; - means standard input"}
	}
	return a.Family("policy", "Administer RAM policies: what users may do", `Administer RAM policies: what users may do. Write them as for Alibaba Cloud's RAM.

A user may do only what an attached policy allows, and never what one denies. Policies
with PolicyType System come with kmsgate.

Two other kinds of policy exist: a key's own (kmsgate key policy), and permission
policies of application access points (kmsgate aap permission).`,
		a.Commands(cli.Task{
			Verb: "create", Short: "Create a policy",
			Example:   `kmsgate policy create sign-only --file sign-only.json --description "use keys, change none"`,
			Arguments: []*cli.Parameter{{Name: "PolicyName", Kind: "NAME"}},
			Flags:     []*cli.Parameter{documentFile(), {Name: "Description", Flag: "description", Kind: "TEXT", Usage: "what the policy is for"}},
			Calls:     warnOfUnmatchedActions(cli.Done("CreateRamPolicy", "Policy {PolicyName} was created.")),
		}, cli.Task{
			Verb: "list", Short: "List policies",
			Example: "kmsgate policy list",
			Calls:   cli.Listed("ListRamPolicies", func(l kms.ListRamPoliciesResponse) []kms.RamPolicyItem { return l.Policies.Policy }),
		}, cli.Task{
			Verb: "show", Short: "Show a policy's document",
			Example:   "kmsgate policy show sign-only\nkmsgate policy show sign-only -o json",
			Arguments: []*cli.Parameter{existing()},
			Calls: cli.Answered("GetRamPolicy", func(p kms.GetRamPolicyResponse) cli.View {
				return cli.View{Value: p.Policy, Text: cli.Document(p.Policy.PolicyDocument)}
			}),
		}, cli.Task{
			Verb: "update", Short: "Replace a policy's document",
			Long: `Replace a policy's document. The new one applies at once to all users that the policy
is attached to.`,
			Example:   "kmsgate policy update sign-only --file sign-only.json",
			Arguments: []*cli.Parameter{existing()},
			Flags:     []*cli.Parameter{documentFile()},
			Confirm:   cli.Existing("GetRamPolicy", "PolicyName", "PolicyName", "This replaces the document of policy {PolicyName}, which is lost (kmsgate policy show prints it)."),
			Calls:     warnOfUnmatchedActions(cli.Done("UpdateRamPolicy", "Policy {PolicyName} was updated.")),
		}, cli.Task{
			Verb: "delete", Short: "Delete a policy that is attached to no user",
			Example:   "kmsgate policy delete sign-only",
			Arguments: []*cli.Parameter{existing()},
			Confirm:   cli.Existing("GetRamPolicy", "PolicyName", "PolicyName", "This deletes policy {PolicyName} and its document."),
			Calls:     cli.Done("DeleteRamPolicy", "Policy {PolicyName} was deleted."),
		}, cli.Task{
			Verb: "attach", Short: "Attach a policy to a user",
			Example:   "kmsgate policy attach sign-only --user alice",
			Arguments: []*cli.Parameter{existing()},
			Flags:     []*cli.Parameter{userFlag("the user that the policy is for")},
			Calls:     cli.Done("AttachPolicyToUser", "Policy {PolicyName} is attached to user {UserName}."),
		}, cli.Task{
			Verb: "detach", Short: "Detach a policy from a user",
			Example:   "kmsgate policy detach sign-only --user alice",
			Arguments: []*cli.Parameter{existing()},
			Flags:     []*cli.Parameter{userFlag("the user that loses the policy")},
			Calls:     cli.Done("DetachPolicyFromUser", "Policy {PolicyName} was detached from user {UserName}."),
		}, simulateTask())...)
}

// warnOfUnmatchedActions adds a warning for each action of a policy's document that matches
// no operation. RAM accepts such actions, so they are not refused.
func warnOfUnmatchedActions(then cli.Calls) cli.Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
		v, err := then(ctx, c, parameters)
		if err != nil {
			return v, err
		}
		v.Warnings = unmatchedActions(parameters["PolicyDocument"])
		return v, nil
	}
}

func unmatchedActions(document string) (warnings []string) {
	p, err := policy.Parse(document)
	if err != nil {
		return nil // the gateway, which may be of another version, accepted it
	}
	names := operations()
	var actions []string
	for _, name := range names {
		actions = append(actions, "kms:"+name)
	}
	for _, action := range p.UnmatchedActions(actions) {
		// As it is written: the policy has it in lower case.
		if i := strings.Index(strings.ToLower(document), action); i >= 0 && i+len(action) <= len(document) {
			action = document[i : i+len(action)]
		}
		warning := fmt.Sprintf("action %q matches no operation of this gateway", action)
		if similar := cli.Similar(action[strings.Index(action, ":")+1:], names); len(similar) > 0 {
			warning += ": did you mean kms:" + similar[0] + "?"
		}
		warnings = append(warnings, warning)
	}
	return warnings
}

func simulateTask() cli.Task {
	return cli.Task{
		Verb: "simulate", Short: "Show whether a user or a client key may do something, and why",
		Long: `Show whether a user or a client key may do something, and which policy and statement
decide that.

The command only asks and changes nothing. The exit status is 0 even if the answer is no.`,
		Example: `kmsgate policy simulate --user alice --action AsymmetricSign --key alias/invoices --source-ip 192.0.2.7
kmsgate policy simulate --user aap:billing --action AsymmetricSign --key alias/invoices --source-ip 192.0.2.7`,
		Flags: []*cli.Parameter{
			userFlag("the user, or aap:NAME for the client keys of an access point"),
			{Name: "ActionName", Flag: "action", Kind: "ACTION", Required: true, Complete: operationNames, Read: readAction,
				Usage: "the operation: AsymmetricSign, or Sign as the instance SDK calls it"},
			{Name: "KeyId", Flag: "key", Kind: "KEY", Usage: "the key: a KeyId, alias or ARN", Complete: keyNames},
			{Name: "Name", Flag: "name", Kind: "NAME", Usage: "the network rule, permission policy or access point"},
			{Name: "SourceIp", Flag: "source-ip", Kind: "IP", Usage: "the address that the request comes from"},
		},
		Calls: ofExistingKey(cli.Answered("SimulatePolicy", func(d kms.SimulatePolicyResponse) cli.View {
			return cli.ViewOf(d, "Allowed", "Reason", "PolicyName", "Statement?", "Resource")
		})),
	}
}

// ofExistingKey refuses a key that does not exist. The gateway answers for it as for any resource.
func ofExistingKey(then cli.Calls) cli.Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
		if key, ok := parameters["KeyId"]; ok {
			if err := c.Call(ctx, "DescribeKey", map[string]string{"KeyId": key}, nil); err != nil {
				return cli.View{}, err
			}
		}
		return then(ctx, c, parameters)
	}
}

// readAction spells an operation as the API does. Case does not matter, as in policies.
func readAction(_ *cobra.Command, values []string) (string, error) {
	names := operations()
	for _, o := range kms.Operations {
		if o.Native != nil {
			names = append(names, o.Native.Name)
		}
	}
	for _, name := range names {
		if strings.EqualFold(name, strings.TrimPrefix(values[0], "kms:")) {
			return name, nil
		}
	}
	err := fmt.Errorf("no operation is called %q", values[0])
	if similar := cli.Similar(values[0], names); len(similar) > 0 {
		err = fmt.Errorf("%w: did you mean %s?", err, strings.Join(similar, " or "))
	}
	return "", err
}

// keyPolicyCommand administers the policies that KMS calls key policies.
func (a *admin) keyPolicyCommand() *cobra.Command {
	return cli.Family("policy", "Show or replace a key policy", `Show or replace a key policy: who may use this one key, in addition to RAM policies
(kmsgate policy).`, a.Commands(cli.Task{
		Verb: "show", Short: "Show a key's policy",
		Example:   "kmsgate key policy show alias/invoices",
		Arguments: []*cli.Parameter{keyArgument()},
		Calls: cli.Answered("GetKeyPolicy", func(p kms.GetKeyPolicyResponse) cli.View {
			return cli.View{Value: cli.ViewOf(p, "Policy").Value, Text: cli.Document(p.Policy)}
		}),
	}, cli.Task{
		Verb: "update", Short: "Replace a key's policy",
		Example:   "kmsgate key policy update alias/invoices --file policy.json",
		Arguments: []*cli.Parameter{keyArgument()},
		Flags:     []*cli.Parameter{{Name: "Policy", Flag: "file", Kind: "FILE", Required: true, Read: cli.ReadJSON, Usage: "the policy, in JSON; - means standard input"}},
		Confirm:   cli.Existing("GetKeyPolicy", "KeyId", "KeyId", "This replaces the policy of key {KeyId}, which is lost (kmsgate key policy show prints it)."),
		Calls:     cli.Done("SetKeyPolicy", "The policy of key {KeyId} was replaced."),
	})...)
}
