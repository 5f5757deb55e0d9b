package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// keyArgument is the argument that names a key.
func keyArgument() *parameter { return &parameter{name: "KeyId", kind: "KEY"} }

func (a *admin) keyCommand() *cobra.Command {
	return family("key", "Administer keys", `Administer keys. Wherever KEY stands, an alias or an ARN will do, too.`,
		append(a.commands(
			createKeyTask(), listKeysTask(),
			keyTask("describe", "Show what is known of a key",
				answered("DescribeKey", func(d describedKey) view { return viewOf(d.KeyMetadata) })),
			keyTask("enable", "Let a disabled key sign again",
				done("EnableKey", "The key {KeyId} is enabled.")),
			keyTask("disable", "Keep a key from signing until it is enabled",
				done("DisableKey", "The key {KeyId} is disabled.")),
			scheduleDeletionTask(),
			keyTask("cancel-deletion", "Keep a key that is to be deleted, and enable it",
				done("CancelKeyDeletion", "The key {KeyId} is kept, and enabled.")),
			describeTask(), protectTask(),
			keyTask("unprotect", "Allow a key's deletion to be scheduled again",
				with("EnableDeletionProtection", "false", done("SetDeletionProtection", "The key {KeyId} is no longer protected from deletion."))),
			publicKeyTask(),
			keyTask("versions", "List a key's versions, the oldest first",
				listedInPages("ListKeyVersions", keyVersions)),
			keyTask("create-version", "Give a key one more version: a new key pair",
				answered("CreateKeyVersion", func(r struct{ KeyVersion keyVersion }) view { return viewOf(r.KeyVersion) })),
			tagTask(), untagTask(),
			keyTask("tags", "List a key's tags",
				listed("ListResourceTags", func(l tagList) []tag { return l.Tags.Tag })),
		), a.keyPolicyCommand())...)
}

// keyTask does something with a key that takes no more than its name.
func keyTask(verb, short string, calls calls) task {
	return task{
		verb: verb, short: short, example: "kmsgate key " + verb + " alias/invoices",
		arguments: []*parameter{keyArgument()},
		calls:     calls,
	}
}

func createKeyTask() task {
	return task{
		verb: "create", short: "Create a key, in the token",
		long: `Create a key, in the token. EC_SM2 keys are kept sealed by the token, since few
tokens can make them.`,
		example: `kmsgate key create --spec EC_P256 --alias alias/invoices
kmsgate key create --spec RSA_3072 --description "release signing" --tag team=release --tag stage=test`,
		flags: []*parameter{
			specFlag("the kind of key pair", true),
			{name: "Description", flag: "description", kind: "TEXT", usage: "what the key is for"},
			{name: "Tags", flag: "tag", kind: "KEY=VALUE", usage: "a tag; can be repeated", many: true, read: readTags},
			{name: "Policy", flag: "policy", kind: "FILE", usage: "the key's policy, in JSON; - is the standard input", read: readDocument},
			{name: "AliasName", flag: "alias", kind: "alias/NAME", usage: "an alias for it", read: readAlias},
		},
		calls: createKey,
	}
}

func specFlag(usage string, required bool) *parameter {
	var specs []string
	for _, spec := range hsm.KeySpecs() {
		specs = append(specs, string(spec))
	}
	return &parameter{name: "KeySpec", flag: "spec", kind: "KEYSPEC", usage: usage, required: required, choices: specs}
}

// createKey creates a key, and then its alias if there shall be one. The key
// stays if that fails.
func createKey(ctx context.Context, c caller, parameters map[string]string) (view, error) {
	aliasName, named := parameters["AliasName"]
	request := maps.Clone(parameters)
	delete(request, "AliasName")
	var created describedKey
	if err := c.Call(ctx, "CreateKey", request, &created); err != nil {
		return view{}, err
	}
	shown, keyId := viewOf(created.KeyMetadata), created.KeyMetadata.KeyId
	if !named {
		return shown, nil
	}
	err := c.Call(ctx, "CreateAlias", map[string]string{"AliasName": aliasName, "KeyId": keyId}, nil)
	if err != nil {
		err = fmt.Errorf("the key is created, and has no alias: give it one with kmsgate alias create ALIAS --key %s. (%w)", plain(keyId), err)
	}
	return shown, err
}

func listKeysTask() task {
	return task{
		verb: "list", short: "List keys",
		long: `List keys. For --long every key is looked up: that takes a while if there are
thousands.`,
		example: "kmsgate key list --long\nkmsgate key list --spec EC_SM2 --state Enabled -o json",
		flags: []*parameter{
			specFlag("only keys of this kind", false),
			{name: "KeyState", flag: "state", kind: "STATE", usage: "only keys in this state", choices: []string{store.Enabled, store.Disabled, store.PendingDeletion}},
			{name: "Long", flag: "long", kind: "bool", usage: "tell more of each key than its name"},
		},
		calls: listKeys,
	}
}

func listKeys(ctx context.Context, c caller, parameters map[string]string) (view, error) {
	request, err := filters(parameters, "KeySpec", "KeyState")
	if err != nil {
		return view{}, err
	}
	keys, err := allPages(ctx, c, "ListKeys", request, func(p keyPage) []keyItem { return p.Keys.Key })
	if err != nil {
		return view{}, err
	}
	if parameters["Long"] != "true" {
		return viewOfList(keys), nil
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
func describeKeys(ctx context.Context, c caller, keys []keyItem) (view, error) {
	all, summaries := []keyMetadata{}, []keySummary{}
	for _, k := range keys {
		var d describedKey
		if err := c.Call(ctx, "DescribeKey", map[string]string{"KeyId": k.KeyId}, &d); err != nil {
			return view{}, err
		}
		m := d.KeyMetadata
		all = append(all, m)
		summaries = append(summaries, keySummary{m.KeyId, m.KeySpec, m.KeyState, m.ProtectionLevel, m.CreationDate, m.Description})
	}
	return view{value: all, rows: table(summaries)}, nil
}

func scheduleDeletionTask() task {
	return task{
		verb: "schedule-deletion", short: "Delete a key, for good, in some days",
		long: `Delete a key, for good, in some days. It does not sign until then, and it can be
kept by kmsgate key cancel-deletion.`,
		example:   "kmsgate key schedule-deletion alias/invoices --days 30",
		arguments: []*parameter{keyArgument()},
		flags:     []*parameter{{name: "PendingWindowInDays", flag: "days", kind: "N", usage: "in how many days: 7 to 366", required: true}},
		calls:     done("ScheduleKeyDeletion", "The key {KeyId} is going to be deleted in {PendingWindowInDays} days."),
	}
}

func protectTask() task {
	return task{
		verb: "protect", short: "Refuse to schedule a key's deletion",
		example:   `kmsgate key protect alias/invoices --description "in use until 2030"`,
		arguments: []*parameter{keyArgument()},
		flags:     []*parameter{{name: "DeletionProtectionDescription", flag: "description", kind: "TEXT", usage: "why"}},
		calls:     with("EnableDeletionProtection", "true", done("SetDeletionProtection", "The key {KeyId} is protected from deletion.")),
	}
}

func describeTask() task {
	return task{
		verb: "update", short: "Change what a key's description says",
		example:   `kmsgate key update alias/invoices --description "invoices of 2027"`,
		arguments: []*parameter{keyArgument()},
		flags:     []*parameter{{name: "Description", flag: "description", kind: "TEXT", usage: "what the key is for", required: true}},
		calls:     done("UpdateKeyDescription", "The description of the key {KeyId} is changed."),
	}
}

func publicKeyTask() task {
	return task{
		verb: "public-key", short: "Print the public key of one of a key's versions, in PEM",
		example:   "kmsgate key public-key alias/invoices\nkmsgate key public-key alias/invoices --version 7f0f24a3-2f0c-4b7c-9d26-0a2e3f5b1c11",
		arguments: []*parameter{keyArgument()},
		flags:     []*parameter{{name: "KeyVersionId", flag: "version", kind: "ID", usage: "the version; without it, the newest"}},
		calls:     getPublicKey,
	}
}

func getPublicKey(ctx context.Context, c caller, parameters map[string]string) (view, error) {
	if _, ok := parameters["KeyVersionId"]; !ok {
		versions, err := allPages(ctx, c, "ListKeyVersions", parameters, keyVersions)
		if err != nil {
			return view{}, err
		}
		if len(versions) == 0 {
			return view{}, errors.New("the key has no version")
		}
		parameters["KeyVersionId"] = versions[len(versions)-1].KeyVersionId
	}
	return answered("GetPublicKey", func(k publicKey) view { return view{value: k, text: lines(k.PublicKey)} })(ctx, c, parameters)
}

func tagTask() task {
	return task{
		verb: "tag", short: "Give a key tags",
		example:   "kmsgate key tag alias/invoices team=billing stage=test",
		arguments: []*parameter{keyArgument(), {name: "Tags", kind: "KEY=VALUE", many: true, read: readTags}},
		calls:     done("TagResource", "The key {KeyId} is tagged."),
	}
}

func untagTask() task {
	return task{
		verb: "untag", short: "Take tags from a key",
		example:   "kmsgate key untag alias/invoices stage",
		arguments: []*parameter{keyArgument(), {name: "TagKeys", kind: "TAGKEY", many: true, read: jsonList}},
		calls:     done("UntagResource", "The tags are taken from the key {KeyId}."),
	}
}

func readTags(_ *cobra.Command, values []string) (string, error) {
	var tags []struct{ TagKey, TagValue string }
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if !ok || key == "" {
			return "", fmt.Errorf("the tag %q is not KEY=VALUE", v)
		}
		tags = append(tags, struct{ TagKey, TagValue string }{key, value})
	}
	text, err := json.Marshal(tags)
	return string(text), err
}

type keyMetadata struct {
	KeyId                         string
	KeySpec                       string
	KeyUsage                      string
	KeyState                      string
	DeleteDate                    string
	Description                   string
	ProtectionLevel               string
	DeletionProtection            string
	DeletionProtectionDescription string
	Creator                       string
	CreationDate                  string
	Origin                        string
	DKMSInstanceId                string
	Arn                           string
}

type describedKey struct{ KeyMetadata keyMetadata }

// A keySummary is what fits in a line.
type keySummary struct {
	KeyId           string
	KeySpec         string
	KeyState        string
	ProtectionLevel string
	CreationDate    string
	Description     string
}

type keyItem struct{ KeyId, KeyArn string }

type keyPage struct {
	Keys struct{ Key []keyItem }
	pageInfo
}

type keyVersion struct{ KeyVersionId, CreationDate, KeyId string }

type keyVersionPage struct {
	KeyVersions struct{ KeyVersion []keyVersion }
	pageInfo
}

func keyVersions(p keyVersionPage) []keyVersion { return p.KeyVersions.KeyVersion }

type publicKey struct{ KeyId, KeyVersionId, PublicKey string }

type tag struct{ TagKey, TagValue string }

type tagList struct{ Tags struct{ Tag []tag } }
