package gateway

import (
	"encoding/json"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

const (
	maxFilters      = 20 // there are fewer filter keys
	maxFilterValues = 100
)

// filters select keys. A key matches if, for each filter, it has one of the filter's values.
type filters []struct {
	Key    string
	Values []string
}

// filterKeys maps the Key of a filter to the function that returns a key's values for it.
var filterKeys = map[string]func(s *Server, k store.Key) []string{
	"KeyState":        func(_ *Server, k store.Key) []string { return []string{k.KeyState} },
	"KeySpec":         func(_ *Server, k store.Key) []string { return []string{string(k.KeySpec)} },
	"KeyUsage":        func(_ *Server, k store.Key) []string { return []string{k.KeyUsage} },
	"ProtectionLevel": func(_ *Server, k store.Key) []string { return []string{k.ProtectionLevel} },
	"CreatorType":     func(*Server, store.Key) []string { return []string{"User"} },
	"Creator":         func(_ *Server, k store.Key) []string { return []string{k.Creator} },
	"DKMSInstanceId":  func(s *Server, _ store.Key) []string { return []string{s.instance.InstanceId} },
	"KeyId":           func(_ *Server, k store.Key) []string { return []string{k.KeyId} },
	"TagKey": func(_ *Server, k store.Key) (tagKeys []string) {
		for key := range k.Tags {
			tagKeys = append(tagKeys, key)
		}
		return tagKeys
	},
	"TagValue": func(_ *Server, k store.Key) (tagValues []string) {
		for _, value := range k.Tags {
			tagValues = append(tagValues, value)
		}
		return tagValues
	},
}

// filterAliasName is the only filter that is not about the record of the key.
const filterAliasName = "AliasName"

func parseFilters(text string) (filters, error) {
	if text == "" {
		return nil, nil
	}
	var f filters
	if err := json.Unmarshal([]byte(text), &f); err != nil || len(f) > maxFilters {
		return nil, kms.InvalidParameter("Filters",
			`it must be JSON with at most %d filters: [{"Key":"KeyState","Values":["Enabled"]}]`, maxFilters)
	}
	for _, filter := range f {
		if _, ok := filterKeys[filter.Key]; !ok && filter.Key != filterAliasName {
			return nil, kms.InvalidParameter("Filters", "%q is not a key to filter by", kms.Clip(filter.Key))
		}
		if len(filter.Values) == 0 || len(filter.Values) > maxFilterValues {
			return nil, kms.InvalidParameter("Filters", "a filter must have 1 to %d Values", maxFilterValues)
		}
	}
	return f, nil
}

func (f filters) match(c *call, k store.Key) bool {
	for _, filter := range f {
		if filter.Key == filterAliasName {
			if !slices.ContainsFunc(filter.Values, func(name string) bool {
				alias, err := c.records.Aliases().Get(name)
				return err == nil && alias.KeyId == k.KeyId
			}) {
				return false
			}
			continue
		}
		values := filterKeys[filter.Key](c.server, k)
		if !slices.ContainsFunc(filter.Values, func(v string) bool { return slices.Contains(values, v) }) {
			return false
		}
	}
	return true
}
