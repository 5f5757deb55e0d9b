package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
)

func tagTask() cli.Task {
	return cli.Task{
		Verb: "tag", Short: "Add tags to a key",
		Example:   "kmsgate key tag alias/invoices team=billing stage=test",
		Arguments: []*cli.Parameter{keyArgument(), {Name: "Tags", Kind: "KEY=VALUE", Many: true, Read: readTags}},
		Calls:     cli.Done("TagResource", "Key {KeyId} is tagged."),
	}
}

func untagTask() cli.Task {
	return cli.Task{
		Verb: "untag", Short: "Remove tags from a key",
		Example:   "kmsgate key untag alias/invoices stage",
		Arguments: []*cli.Parameter{keyArgument(), {Name: "TagKeys", Kind: "TAGKEY", Many: true, Read: cli.JSONList}},
		Calls:     cli.Done("UntagResource", "The tags were removed from key {KeyId}."),
	}
}

func readTags(_ *cobra.Command, values []string) (string, error) {
	var tags []struct{ TagKey, TagValue string }
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if !ok || key == "" {
			return "", fmt.Errorf("tag %q is not KEY=VALUE", v)
		}
		tags = append(tags, struct{ TagKey, TagValue string }{key, value})
	}
	text, err := json.Marshal(tags)
	return string(text), err
}
