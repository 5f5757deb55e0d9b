package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// keyArgument returns the argument that names a key.
func keyArgument() *cli.Parameter {
	return &cli.Parameter{Name: "KeyId", Kind: "KEY", Complete: keyNames}
}

func (a *admin) keyCommand() *cobra.Command {
	return a.Family("key", "Administer keys", `Administer keys. KEY is a KeyId, an alias or an ARN.`,
		append(a.Commands(
			createKeyTask(), listKeysTask(),
			keyTask("show", "Show a key, its aliases, versions, tags and policy", showKey),
			updateKeyTask(),
			keyTask("enable", "Let a disabled key sign again",
				cli.Done("EnableKey", "Key {KeyId} is enabled.")),
			keyTask("disable", "Keep a key from signing until it is enabled",
				cli.Done("DisableKey", "Key {KeyId} is disabled.")),
			scheduleDeletionTask(),
			keyTask("cancel-deletion", "Keep a key whose deletion is scheduled, and enable it",
				cli.Done("CancelKeyDeletion", "Key {KeyId} is kept and enabled.")),
			protectTask(),
			keyTask("unprotect", "Remove a key's protection from deletion",
				cli.With("EnableDeletionProtection", "false", cli.Done("SetDeletionProtection", "Key {KeyId} is no longer protected from deletion."))),
			publicKeyTask(),
			keyTask("create-version", "Create a new version of a key: a new key pair",
				cli.Answered("CreateKeyVersion", func(r kms.KeyVersionResponse) cli.View {
					return cli.ViewOf(r.KeyVersion, "KeyVersionId", "CreationDate", "KeyId")
				})),
			tagTask(), untagTask(),
		), a.keyPolicyCommand())...)
}

// keyTask returns a task whose only argument is a key.
func keyTask(verb, short string, calls cli.Calls) cli.Task {
	return cli.Task{
		Verb: verb, Short: short, Example: "kmsgate key " + verb + " alias/invoices",
		Arguments: []*cli.Parameter{keyArgument()},
		Calls:     calls,
	}
}

func createKeyTask() cli.Task {
	return cli.Task{
		Verb: "create", Short: "Create a key in the token",
		Long: `Create a key in the token. EC_SM2 keys are the exception: kmsgate makes them in software,
and the token seals them.`,
		Example: `kmsgate key create --spec EC_P256 --alias alias/invoices
kmsgate key create --spec RSA_3072 --description "release signing" --tag team=release --tag stage=test`,
		Flags: []*cli.Parameter{
			specFlag("the kind of key pair", true),
			{Name: "Description", Flag: "description", Kind: "TEXT", Usage: "what the key is for"},
			{Name: "Tags", Flag: "tag", Kind: "KEY=VALUE", Usage: "a tag; can be repeated", Many: true, Read: readTags},
			{Name: "Policy", Flag: "policy-file", Kind: "FILE", Usage: "the key's policy, in JSON; - means standard input", Read: cli.ReadJSON},
			{Name: "AliasName", Flag: "alias", Kind: "alias/NAME", Usage: "an alias for the key", Read: readAlias},
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

// createKey creates a key, with its alias if the command line names one.
func createKey(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	action := "CreateKey"
	if parameters["AliasName"] != "" {
		action = "CreateNamedKey"
	}
	return cli.Answered(action, viewOfKey)(ctx, c, parameters)
}

func scheduleDeletionTask() cli.Task {
	return cli.Task{
		Verb: "schedule-deletion", Short: "Delete a key permanently, after some days",
		Long: `Delete a key permanently, after some days. The key stops signing at once. Until it is
deleted, kmsgate key cancel-deletion keeps it and enables it again.`,
		Example:   "kmsgate key schedule-deletion alias/invoices --days 30",
		Arguments: []*cli.Parameter{keyArgument()},
		Flags:     []*cli.Parameter{{Name: "PendingWindowInDays", Flag: "days", Kind: "N", Usage: "the number of days: 7 to 366", Required: true}},
		Calls:     cli.Done("ScheduleKeyDeletion", "Key {KeyId} will be deleted in {PendingWindowInDays} days. To keep it: kmsgate key cancel-deletion {KeyId}"),
	}
}

func protectTask() cli.Task {
	return cli.Task{
		Verb: "protect", Short: "Protect a key from deletion",
		Example:   `kmsgate key protect alias/invoices --description "in use until 2030"`,
		Arguments: []*cli.Parameter{keyArgument()},
		Flags:     []*cli.Parameter{{Name: "DeletionProtectionDescription", Flag: "description", Kind: "TEXT", Usage: "why the key is protected"}},
		Calls:     cli.With("EnableDeletionProtection", "true", cli.Done("SetDeletionProtection", "Key {KeyId} is protected from deletion.")),
	}
}

func updateKeyTask() cli.Task {
	return cli.Task{
		Verb: "update", Short: "Change a key's description",
		Example:   `kmsgate key update alias/invoices --description "invoices of 2027"`,
		Arguments: []*cli.Parameter{keyArgument()},
		Flags:     []*cli.Parameter{{Name: "Description", Flag: "description", Kind: "TEXT", Usage: "what the key is for", Required: true}},
		Calls:     cli.Done("UpdateKeyDescription", "The description of key {KeyId} was changed."),
	}
}

func publicKeyTask() cli.Task {
	return cli.Task{
		Verb: "public-key", Short: "Print the public key of a key version, in PEM",
		Example:   "kmsgate key public-key alias/invoices\nkmsgate key public-key alias/invoices --version 7f0f24a3-2f0c-4b7c-9d26-0a2e3f5b1c11",
		Arguments: []*cli.Parameter{keyArgument()},
		Flags:     []*cli.Parameter{{Name: "KeyVersionId", Flag: "version", Kind: "ID", Usage: "the version (default: the newest)"}},
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
