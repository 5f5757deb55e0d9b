package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

func (a *admin) policyCommand() *cobra.Command {
	policyName := func() *cli.Parameter { return &cli.Parameter{Name: "PolicyName", Kind: "NAME"} }
	documentFile := func() *cli.Parameter {
		return &cli.Parameter{Name: "PolicyDocument", Flag: "file", Kind: "FILE", Required: true, Read: cli.ReadDocument,
			Usage: "the policy's document, in JSON; - is the standard input"}
	}
	return cli.Family("policy", "Say what users may do", `Say what users may do, with policies as Alibaba Cloud's RAM has them.

A user may do nothing until a policy is attached that allows it, and never what
an attached policy denies. Policies with PolicyType System come with kmsgate.`,
		a.Commands(cli.Task{
			Verb: "create", Short: "Create a policy",
			Example:   `kmsgate policy create sign-only --file sign-only.json --description "use keys, change none"`,
			Arguments: []*cli.Parameter{policyName()},
			Flags:     []*cli.Parameter{documentFile(), {Name: "Description", Flag: "description", Kind: "TEXT", Usage: "what the policy is for"}},
			Calls:     cli.Done("CreateRamPolicy", "The policy {PolicyName} is created."),
		}, cli.Task{
			Verb: "list", Short: "List the policies",
			Example: "kmsgate policy list",
			Calls:   cli.Listed("ListRamPolicies", func(l kms.ListRamPoliciesResponse) []kms.RamPolicyItem { return l.Policies.Policy }),
		}, cli.Task{
			Verb: "show", Short: "Show a policy's document",
			Example:   "kmsgate policy show sign-only\nkmsgate policy show sign-only -o json",
			Arguments: []*cli.Parameter{policyName()},
			Calls: cli.Answered("GetRamPolicy", func(p kms.GetRamPolicyResponse) cli.View {
				return cli.View{Value: p.Policy, Text: cli.Document(p.Policy.PolicyDocument)}
			}),
		}, cli.Task{
			Verb: "update", Short: "Give a policy another document",
			Example:   "kmsgate policy update sign-only --file sign-only.json",
			Arguments: []*cli.Parameter{policyName()},
			Flags:     []*cli.Parameter{documentFile()},
			Calls:     cli.Done("UpdateRamPolicy", "The policy {PolicyName} is updated."),
		}, cli.Task{
			Verb: "delete", Short: "Delete a policy that is attached to nobody",
			Example:   "kmsgate policy delete sign-only",
			Arguments: []*cli.Parameter{policyName()},
			Calls:     cli.Done("DeleteRamPolicy", "The policy {PolicyName} is deleted."),
		}, cli.Task{
			Verb: "attach", Short: "Attach a policy to a user",
			Example:   "kmsgate policy attach sign-only --user alice",
			Arguments: []*cli.Parameter{policyName()},
			Flags:     []*cli.Parameter{userFlag("the user that it shall hold for")},
			Calls:     cli.Done("AttachPolicyToUser", "The policy {PolicyName} is attached to {UserName}."),
		}, cli.Task{
			Verb: "detach", Short: "Detach a policy from a user",
			Example:   "kmsgate policy detach sign-only --user alice",
			Arguments: []*cli.Parameter{policyName()},
			Flags:     []*cli.Parameter{userFlag("the user that it shall hold for no longer")},
			Calls:     cli.Done("DetachPolicyFromUser", "The policy {PolicyName} is detached from {UserName}."),
		}, simulateTask())...)
}

func simulateTask() cli.Task {
	return cli.Task{
		Verb: "simulate", Short: "Tell whether a user or a client key may do something, and why",
		Long: `Tell whether a user, or a client key, may do something, and by which statement of
which policy.

Nothing is done. The answer is what is printed: the exit status is 0 for a
refusal, too.`,
		Example: `kmsgate policy simulate --user alice --action AsymmetricSign --key alias/invoices --source-ip 192.0.2.7
kmsgate policy simulate --user aap:billing --action AsymmetricSign --key alias/invoices --source-ip 192.0.2.7`,
		Flags: []*cli.Parameter{
			userFlag("the user who would do it, or aap:NAME: the client keys of an access point"),
			{Name: "ActionName", Flag: "action", Kind: "ACTION", Usage: "the operation, as AsymmetricSign, or as Sign, as the instance SDK calls it", Required: true},
			{Name: "KeyId", Flag: "key", Kind: "KEY", Usage: "the key to do it with: a KeyId, alias or ARN"},
			{Name: "Name", Flag: "name", Kind: "NAME", Usage: "the network rule, permission policy or access point to do it with"},
			{Name: "SourceIp", Flag: "source-ip", Kind: "IP", Usage: "the address to do it from"},
		},
		Calls: cli.Answered("SimulatePolicy", func(d kms.SimulatePolicyResponse) cli.View {
			return cli.ViewOf(d, "Allowed", "Reason", "PolicyName", "Statement?", "Resource")
		}),
	}
}

// keyPolicyCommand is about policies of keys, not of users: KMS has both.
func (a *admin) keyPolicyCommand() *cobra.Command {
	return cli.Family("policy", "Show or set a key's own policy", "", a.Commands(cli.Task{
		Verb: "show", Short: "Show a key's policy",
		Example:   "kmsgate key policy show alias/invoices",
		Arguments: []*cli.Parameter{keyArgument()},
		Calls: cli.Answered("GetKeyPolicy", func(p kms.GetKeyPolicyResponse) cli.View {
			return cli.View{Value: cli.ViewOf(p, "Policy").Value, Text: cli.Document(p.Policy)}
		}),
	}, cli.Task{
		Verb: "set", Short: "Give a key another policy",
		Example:   "kmsgate key policy set alias/invoices --file policy.json",
		Arguments: []*cli.Parameter{keyArgument()},
		Flags:     []*cli.Parameter{{Name: "Policy", Flag: "file", Kind: "FILE", Required: true, Read: cli.ReadDocument, Usage: "the policy, in JSON; - is the standard input"}},
		Calls:     cli.Done("SetKeyPolicy", "The policy of the key {KeyId} is set."),
	})...)
}
