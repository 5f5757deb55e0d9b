package main

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/store"
)

// keyFields are the fields of a key that are shown.
var keyFields = []string{"KeyId", "KeySpec", "KeyUsage", "KeyState", "DeleteDate", "Description", "ProtectionLevel", "DeletionProtection",
	"DeletionProtectionDescription", "Creator", "CreationDate", "Origin", "DKMSInstanceId", "Arn"}

func viewOfKey(d kms.DescribeKeyResponse) cli.View { return cli.ViewOf(d.KeyMetadata, keyFields...) }

// A keyView is a key with all that belongs to it.
type keyView struct {
	kms.KeyDetails
	Aliases  []string
	Versions []versionView
	Tags     map[string]string
	Policy   string // JSON
}

type versionView struct{ KeyVersionId, CreationDate, LastUsedDate string }

// showKey collects what the API tells of a key in six operations.
func showKey(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	v, err := describeKey(ctx, c, parameters["KeyId"])
	if err != nil {
		return cli.View{}, err
	}
	rows := cli.ViewOf(v.KeyDetails, keyFields...).Rows
	for i, alias := range v.Aliases {
		rows = append(rows, []string{first(i, "Aliases"), printable.Text(alias)})
	}
	for i, version := range v.Versions {
		rows = append(rows, []string{first(i, "Versions"), printable.Text(version.KeyVersionId + ", created " + version.CreationDate + ", last used " + usedAt(version.LastUsedDate))})
	}
	for i, name := range slices.Sorted(maps.Keys(v.Tags)) {
		rows = append(rows, []string{first(i, "Tags"), printable.Text(name + "=" + v.Tags[name])})
	}
	text, err := cli.Align(rows)
	if v.Policy != "" {
		text += "Policy\n" + cli.Document(v.Policy)
	}
	fields := slices.Concat(keyFields, []string{"Aliases", "Versions", "Tags", "Policy{}"})
	return cli.View{Value: cli.ViewOf(v, fields...).Value, Text: text}, err
}

// first returns the name of a list beside its first member only.
func first(i int, name string) string {
	if i > 0 {
		return ""
	}
	return name
}

func describeKey(ctx context.Context, c target.Caller, key string) (v keyView, err error) {
	var described kms.DescribeKeyResponse
	if err := c.Call(ctx, "DescribeKey", map[string]string{"KeyId": key}, &described); err != nil {
		return v, err
	}
	v.KeyDetails = described.KeyMetadata
	parameters := map[string]string{"KeyId": v.KeyId}
	aliases, err := target.AliasesOfKey.All(ctx, c, parameters)
	if err != nil {
		return v, err
	}
	v.Aliases = []string{}
	for _, a := range aliases {
		v.Aliases = append(v.Aliases, a.AliasName)
	}
	versions, err := target.KeyVersions.All(ctx, c, parameters)
	if err != nil {
		return v, err
	}
	var uses kms.ListKeyVersionUsesResponse
	if err := c.Call(ctx, "ListKeyVersionUses", parameters, &uses); err != nil {
		return v, err
	}
	lastUsed := make(map[string]string) // by KeyVersionId
	for _, use := range uses.KeyVersions.KeyVersion {
		lastUsed[use.KeyVersionId] = use.LastUsedDate
	}
	for _, version := range versions {
		v.Versions = append(v.Versions, versionView{version.KeyVersionId, version.CreationDate, lastUsed[version.KeyVersionId]})
	}
	var tags kms.ListResourceTagsResponse
	if err := c.Call(ctx, "ListResourceTags", parameters, &tags); err != nil {
		return v, err
	}
	v.Tags = make(map[string]string)
	for _, tag := range tags.Tags.Tag {
		v.Tags[tag.TagKey] = tag.TagValue
	}
	var policy kms.GetKeyPolicyResponse
	if err := c.Call(ctx, "GetKeyPolicy", parameters, &policy); err != nil {
		return v, err
	}
	v.Policy = policy.Policy
	return v, nil
}

func listKeysTask() cli.Task {
	return cli.Task{
		Verb: "list", Short: "List keys",
		Long: `List keys. The command asks the gateway about each key, which takes a while if there are
thousands.`,
		Example: "kmsgate key list\nkmsgate key list --spec EC_SM2 --state Enabled -o json",
		Flags: []*cli.Parameter{
			specFlag("only keys of this kind", false),
			{Name: "KeyState", Flag: "state", Kind: "STATE", Usage: "only keys in this state", Choices: []string{store.Enabled, store.Disabled, store.PendingDeletion}},
		},
		Calls: listKeys,
	}
}

// A keyRow is a key as `kmsgate key list` shows it.
type keyRow struct {
	Aliases []string
	kms.KeyDetails
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
	aliases, err := target.Aliases.All(ctx, c, nil)
	if err != nil {
		return cli.View{}, err
	}
	aliasesOf := make(map[string][]string) // by KeyId
	for _, a := range aliases {
		aliasesOf[a.KeyId] = append(aliasesOf[a.KeyId], a.AliasName)
	}
	rows := make([]keyRow, 0, len(keys))
	for _, k := range keys {
		var d kms.DescribeKeyResponse
		err := c.Call(ctx, "DescribeKey", map[string]string{"KeyId": k.KeyId}, &d)
		if errors.Is(err, kms.ErrKeyNotFound) {
			continue // it was deleted after it was listed
		}
		if err != nil {
			return cli.View{}, err
		}
		rows = append(rows, keyRow{append([]string{}, aliasesOf[k.KeyId]...), d.KeyMetadata})
	}
	v := cli.ViewOfList(rows, append([]string{"Aliases"}, keyFields...)...)
	v.Rows = cli.Table(rows, "KeyId", "Aliases", "KeySpec", "KeyState", "CreationDate")
	for _, row := range v.Rows[1:] {
		row[4], _, _ = strings.Cut(row[4], "T") // the day is enough for a table
	}
	return v, nil
}

// filters makes the API's parameter Filters of single parameters.
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
