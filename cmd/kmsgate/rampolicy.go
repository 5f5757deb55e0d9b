package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
)

func (a *admin) policyCommand() *cobra.Command {
	policyName := func() *parameter { return &parameter{name: "PolicyName", kind: "NAME"} }
	documentFile := func() *parameter {
		return &parameter{name: "PolicyDocument", flag: "file", kind: "FILE", required: true, read: readDocument,
			usage: "the policy's document, in JSON; - is the standard input"}
	}
	return family("policy", "Say what users may do", `Say what users may do, with policies as Alibaba Cloud's RAM has them.

A user may do nothing until a policy is attached that allows it, and never what
an attached policy denies. Policies with PolicyType System come with kmsgate.`,
		a.commands(task{
			verb: "create", short: "Create a policy",
			example:   `kmsgate policy create sign-only --file sign-only.json --description "use keys, change none"`,
			arguments: []*parameter{policyName()},
			flags:     []*parameter{documentFile(), {name: "Description", flag: "description", kind: "TEXT", usage: "what the policy is for"}},
			calls:     done("CreateRamPolicy", "The policy {PolicyName} is created."),
		}, task{
			verb: "list", short: "List the policies",
			example: "kmsgate policy list",
			calls:   listed("ListRamPolicies", func(l ramPolicies) []ramPolicy { return l.Policies.Policy }),
		}, task{
			verb: "show", short: "Show a policy's document",
			example:   "kmsgate policy show sign-only\nkmsgate policy show sign-only -o json",
			arguments: []*parameter{policyName()},
			calls: answered("GetRamPolicy", func(p struct{ Policy ramPolicyDocument }) view {
				return view{value: p.Policy, text: document(p.Policy.PolicyDocument)}
			}),
		}, task{
			verb: "update", short: "Give a policy another document",
			example:   "kmsgate policy update sign-only --file sign-only.json",
			arguments: []*parameter{policyName()},
			flags:     []*parameter{documentFile()},
			calls:     done("UpdateRamPolicy", "The policy {PolicyName} is updated."),
		}, task{
			verb: "delete", short: "Delete a policy that is attached to nobody",
			example:   "kmsgate policy delete sign-only",
			arguments: []*parameter{policyName()},
			calls:     done("DeleteRamPolicy", "The policy {PolicyName} is deleted."),
		}, task{
			verb: "attach", short: "Attach a policy to a user",
			example:   "kmsgate policy attach sign-only --user alice",
			arguments: []*parameter{policyName()},
			flags:     []*parameter{userFlag("the user that it shall hold for")},
			calls:     done("AttachPolicyToUser", "The policy {PolicyName} is attached to {UserName}."),
		}, task{
			verb: "detach", short: "Detach a policy from a user",
			example:   "kmsgate policy detach sign-only --user alice",
			arguments: []*parameter{policyName()},
			flags:     []*parameter{userFlag("the user that it shall hold for no longer")},
			calls:     done("DetachPolicyFromUser", "The policy {PolicyName} is detached from {UserName}."),
		}, simulateTask())...)
}

func simulateTask() task {
	return task{
		verb: "simulate", short: "Tell whether a user or a client key may do something, and why",
		long: `Tell whether a user, or a client key, may do something, and by which statement of
which policy.

Nothing is done. The answer is what is printed: the exit status is 0 for a
refusal, too.`,
		example: `kmsgate policy simulate --user alice --action AsymmetricSign --key alias/invoices --source-ip 192.0.2.7
kmsgate policy simulate --user aap:billing --action AsymmetricSign --key alias/invoices --source-ip 192.0.2.7`,
		flags: []*parameter{
			userFlag("the user who would do it, or aap:NAME: the client keys of an access point"),
			{name: "ActionName", flag: "action", kind: "ACTION", usage: "the operation, as AsymmetricSign, or as Sign, as the instance SDK calls it", required: true},
			{name: "KeyId", flag: "key", kind: "KEY", usage: "the key to do it with: a KeyId, alias or ARN"},
			{name: "Name", flag: "name", kind: "NAME", usage: "the network rule, permission policy or access point to do it with"},
			{name: "SourceIp", flag: "source-ip", kind: "IP", usage: "the address to do it from"},
		},
		calls: answered("SimulatePolicy", func(d simulation) view { return viewOf(d) }),
	}
}

// keyPolicyCommand is about policies of keys, not of users: KMS has both.
func (a *admin) keyPolicyCommand() *cobra.Command {
	return family("policy", "Show or set a key's own policy", "", a.commands(task{
		verb: "show", short: "Show a key's policy",
		example:   "kmsgate key policy show alias/invoices",
		arguments: []*parameter{keyArgument()},
		calls: answered("GetKeyPolicy", func(p struct{ Policy string }) view {
			return view{value: p, text: document(p.Policy)}
		}),
	}, task{
		verb: "set", short: "Give a key another policy",
		example:   "kmsgate key policy set alias/invoices --file policy.json",
		arguments: []*parameter{keyArgument()},
		flags:     []*parameter{{name: "Policy", flag: "file", kind: "FILE", required: true, read: readDocument, usage: "the policy, in JSON; - is the standard input"}},
		calls:     done("SetKeyPolicy", "The policy of the key {KeyId} is set."),
	})...)
}

type ramPolicy struct {
	PolicyName      string
	PolicyType      string
	Description     string
	AttachmentCount int
	CreateDate      string
	UpdateDate      string
}

type ramPolicies struct {
	Policies struct{ Policy []ramPolicy }
}

type ramPolicyDocument struct {
	ramPolicy
	PolicyDocument string
}

type simulation struct {
	Allowed    bool
	Reason     string
	PolicyName string
	Statement  statement
	Resource   string
}

// A statement is the number of one in a policy, from 1 on, or 0 for none, which
// people are not shown.
type statement int

func (s statement) String() string {
	if s == 0 {
		return ""
	}
	return strconv.Itoa(int(s))
}

// maxDocument bounds what is read of a file that is sent to the gateway.
const maxDocument = 64 << 10

// readDocument reads the file that a command line names; "-" is the standard
// input.
func readDocument(cmd *cobra.Command, values []string) (string, error) {
	name, read := values[0], readSmallFile
	if name == "-" {
		name = "the standard input"
		read = func(name string) ([]byte, error) { return readSmall(name, cmd.InOrStdin()) }
	}
	text, err := read(name)
	if err == nil && len(bytes.TrimSpace(text)) == 0 {
		err = fmt.Errorf("%s is empty", name)
	}
	return string(text), err
}

func readSmall(name string, in io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(text) > maxDocument {
		return nil, fmt.Errorf("%s has more than %d KiB", name, maxDocument>>10)
	}
	return text, nil
}

func readSmallFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readSmall(name, f)
}
