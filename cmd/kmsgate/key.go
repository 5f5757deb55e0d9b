package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// keyArgument is the argument that names a key.
func keyArgument() *cli.Parameter { return &cli.Parameter{Name: "KeyId", Kind: "KEY"} }

func (a *admin) keyCommand() *cobra.Command {
	return cli.Family("key", "Administer keys", `Administer keys. Wherever KEY stands, an alias or an ARN will do, too.`,
		append(a.Commands(
			createKeyTask(), listKeysTask(),
			keyTask("describe", "Show what is known of a key",
				cli.Answered("DescribeKey", viewOfKey)),
			keyTask("enable", "Let a disabled key sign again",
				cli.Done("EnableKey", "The key {KeyId} is enabled.")),
			keyTask("disable", "Keep a key from signing until it is enabled",
				cli.Done("DisableKey", "The key {KeyId} is disabled.")),
			scheduleDeletionTask(),
			keyTask("cancel-deletion", "Keep a key that is to be deleted, and enable it",
				cli.Done("CancelKeyDeletion", "The key {KeyId} is kept, and enabled.")),
			describeTask(), protectTask(),
			keyTask("unprotect", "Allow a key's deletion to be scheduled again",
				cli.With("EnableDeletionProtection", "false", cli.Done("SetDeletionProtection", "The key {KeyId} is no longer protected from deletion."))),
			publicKeyTask(),
			keyTask("versions", "List a key's versions, the oldest first",
				cli.ListedInPages(target.KeyVersions, "KeyVersionId", "CreationDate", "KeyId")),
			keyTask("create-version", "Give a key one more version: a new key pair",
				cli.Answered("CreateKeyVersion", func(r kms.KeyVersionResponse) cli.View {
					return cli.ViewOf(r.KeyVersion, "KeyVersionId", "CreationDate", "KeyId")
				})),
			tagTask(), untagTask(),
			keyTask("tags", "List a key's tags",
				cli.Listed("ListResourceTags", func(l kms.ListResourceTagsResponse) []kms.ResourceTag { return l.Tags.Tag }, "TagKey", "TagValue")),
		), a.keyPolicyCommand())...)
}

// keyTask does something with a key that takes no more than its name.
func keyTask(verb, short string, calls cli.Calls) cli.Task {
	return cli.Task{
		Verb: verb, Short: short, Example: "kmsgate key " + verb + " alias/invoices",
		Arguments: []*cli.Parameter{keyArgument()},
		Calls:     calls,
	}
}

func createKeyTask() cli.Task {
	return cli.Task{
		Verb: "create", Short: "Create a key, in the token",
		Long: `Create a key, in the token. EC_SM2 keys are kept sealed by the token, since few
tokens can make them.`,
		Example: `kmsgate key create --spec EC_P256 --alias alias/invoices
kmsgate key create --spec RSA_3072 --description "release signing" --tag team=release --tag stage=test`,
		Flags: []*cli.Parameter{
			specFlag("the kind of key pair", true),
			{Name: "Description", Flag: "description", Kind: "TEXT", Usage: "what the key is for"},
			{Name: "Tags", Flag: "tag", Kind: "KEY=VALUE", Usage: "a tag; can be repeated", Many: true, Read: readTags},
			{Name: "Policy", Flag: "policy", Kind: "FILE", Usage: "the key's policy, in JSON; - is the standard input", Read: cli.ReadDocument},
			{Name: "AliasName", Flag: "alias", Kind: "alias/NAME", Usage: "an alias for it", Read: readAlias},
		},
		Calls: createKey,
	}
}

func specFlag(usage string, required bool) *cli.Parameter {
	var specs []string
	for _, spec := range hsm.KeySpecs() {
		specs = append(specs, string(spec))
	}
	return &cli.Parameter{Name: "KeySpec", Flag: "spec", Kind: "KEYSPEC", Usage: usage, Required: required, Choices: specs}
}

// createKey creates a key, and then its alias if there shall be one. The key
// stays if that fails.
func createKey(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	aliasName, named := parameters["AliasName"]
	request := maps.Clone(parameters)
	delete(request, "AliasName")
	var created kms.DescribeKeyResponse // which has all that the answer has
	if err := c.Call(ctx, "CreateKey", request, &created); err != nil {
		return cli.View{}, err
	}
	shown, keyId := viewOfKey(created), created.KeyMetadata.KeyId
	if !named {
		return shown, nil
	}
	err := c.Call(ctx, "CreateAlias", map[string]string{"AliasName": aliasName, "KeyId": keyId}, nil)
	if err != nil {
		err = fmt.Errorf("the key is created, and has no alias: give it one with kmsgate alias create ALIAS --key %s. (%w)", printable.Text(keyId), err)
	}
	return shown, err
}

func listKeysTask() cli.Task {
	return cli.Task{
		Verb: "list", Short: "List keys",
		Long: `List keys. For --long every key is looked up: that takes a while if there are
thousands.`,
		Example: "kmsgate key list --long\nkmsgate key list --spec EC_SM2 --state Enabled -o json",
		Flags: []*cli.Parameter{
			specFlag("only keys of this kind", false),
			{Name: "KeyState", Flag: "state", Kind: "STATE", Usage: "only keys in this state", Choices: []string{store.Enabled, store.Disabled, store.PendingDeletion}},
			{Name: "Long", Flag: "long", Kind: "bool", Usage: "tell more of each key than its name"},
		},
		Calls: listKeys,
	}
}

func listKeys(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	request, err := filters(parameters, "KeySpec", "KeyState")
	if err != nil {
		return cli.View{}, err
	}
	keys, err := target.Keys.All(ctx, c, request)
	if err != nil {
		return cli.View{}, err
	}
	if parameters["Long"] != "true" {
		return cli.ViewOfList(keys, "KeyId", "KeyArn"), nil
	}
	return describeKeys(ctx, c, keys)
}

// filters makes the API's parameter Filters of single ones.
func filters(parameters map[string]string, names ...string) (map[string]string, error) {
	type filter struct {
		Key    string
		Values []string
	}
	var all []filter
	for _, name := range names {
		if value, ok := parameters[name]; ok {
			all = append(all, filter{name, []string{value}})
		}
	}
	if all == nil {
		return map[string]string{}, nil
	}
	text, err := json.Marshal(all)
	return map[string]string{"Filters": string(text)}, err
}

// describeKeys looks keys up, one by one: the API has no other way.
func describeKeys(ctx context.Context, c target.Caller, keys []kms.KeyItem) (cli.View, error) {
	all := make([]kms.KeyDetails, 0, len(keys))
	for _, k := range keys {
		var d kms.DescribeKeyResponse
		if err := c.Call(ctx, "DescribeKey", map[string]string{"KeyId": k.KeyId}, &d); err != nil {
			return cli.View{}, err
		}
		all = append(all, d.KeyMetadata)
	}
	summary := cli.Table(all, "KeyId", "KeySpec", "KeyState", "ProtectionLevel", "CreationDate", "Description")
	return cli.View{Value: cli.ViewOfList(all, keyFields...).Value, Rows: summary}, nil
}

func scheduleDeletionTask() cli.Task {
	return cli.Task{
		Verb: "schedule-deletion", Short: "Delete a key, for good, in some days",
		Long: `Delete a key, for good, in some days. It does not sign until then, and it can be
kept by kmsgate key cancel-deletion.`,
		Example:   "kmsgate key schedule-deletion alias/invoices --days 30",
		Arguments: []*cli.Parameter{keyArgument()},
		Flags:     []*cli.Parameter{{Name: "PendingWindowInDays", Flag: "days", Kind: "N", Usage: "in how many days: 7 to 366", Required: true}},
		Calls:     cli.Done("ScheduleKeyDeletion", "The key {KeyId} is going to be deleted in {PendingWindowInDays} days."),
	}
}

func protectTask() cli.Task {
	return cli.Task{
		Verb: "protect", Short: "Refuse to schedule a key's deletion",
		Example:   `kmsgate key protect alias/invoices --description "in use until 2030"`,
		Arguments: []*cli.Parameter{keyArgument()},
		Flags:     []*cli.Parameter{{Name: "DeletionProtectionDescription", Flag: "description", Kind: "TEXT", Usage: "why"}},
		Calls:     cli.With("EnableDeletionProtection", "true", cli.Done("SetDeletionProtection", "The key {KeyId} is protected from deletion.")),
	}
}

func describeTask() cli.Task {
	return cli.Task{
		Verb: "update", Short: "Change what a key's description says",
		Example:   `kmsgate key update alias/invoices --description "invoices of 2027"`,
		Arguments: []*cli.Parameter{keyArgument()},
		Flags:     []*cli.Parameter{{Name: "Description", Flag: "description", Kind: "TEXT", Usage: "what the key is for", Required: true}},
		Calls:     cli.Done("UpdateKeyDescription", "The description of the key {KeyId} is changed."),
	}
}

func publicKeyTask() cli.Task {
	return cli.Task{
		Verb: "public-key", Short: "Print the public key of one of a key's versions, in PEM",
		Example:   "kmsgate key public-key alias/invoices\nkmsgate key public-key alias/invoices --version 7f0f24a3-2f0c-4b7c-9d26-0a2e3f5b1c11",
		Arguments: []*cli.Parameter{keyArgument()},
		Flags:     []*cli.Parameter{{Name: "KeyVersionId", Flag: "version", Kind: "ID", Usage: "the version; without it, the newest"}},
		Calls:     getPublicKey,
	}
}

func getPublicKey(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	if _, ok := parameters["KeyVersionId"]; !ok {
		versions, err := target.KeyVersions.All(ctx, c, parameters)
		if err != nil {
			return cli.View{}, err
		}
		if len(versions) == 0 {
			return cli.View{}, errors.New("the key has no version")
		}
		parameters["KeyVersionId"] = versions[len(versions)-1].KeyVersionId
	}
	return cli.Answered("GetPublicKey", func(k kms.GetPublicKeyResponse) cli.View {
		return cli.View{Value: cli.ViewOf(k, "KeyId", "KeyVersionId", "PublicKey").Value, Text: printable.Lines(k.PublicKey)}
	})(ctx, c, parameters)
}

// keyFields are the fields of a key that are shown.
var keyFields = []string{"KeyId", "KeySpec", "KeyUsage", "KeyState", "DeleteDate", "Description", "ProtectionLevel", "DeletionProtection",
	"DeletionProtectionDescription", "Creator", "CreationDate", "Origin", "DKMSInstanceId", "Arn"}

func viewOfKey(d kms.DescribeKeyResponse) cli.View { return cli.ViewOf(d.KeyMetadata, keyFields...) }
