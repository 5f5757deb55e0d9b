package gateway

import (
	"encoding/json"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

const (
	maxFilters      = 20 // more than there are filter keys
	maxFilterValues = 100
)

// filters select keys: one has to have one of the values for each of the
// filters' keys.
type filters []struct {
	Key    string
	Values []string
}

// filterKeys says what a key's values for each filter are.
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

// filterAliasName is the one filter that is not about the key's own record.
const filterAliasName = "AliasName"

func parseFilters(text string) (filters, error) {
	if text == "" {
		return nil, nil
	}
	var f filters
	if err := json.Unmarshal([]byte(text), &f); err != nil || len(f) > maxFilters {
		return nil, kms.InvalidParameter("Filters", `it has to be JSON: [{"Key":"KeyState","Values":["Enabled"]}]`)
	}
	for _, one := range f {
		if _, ok := filterKeys[one.Key]; !ok && one.Key != filterAliasName {
			return nil, kms.InvalidParameter("Filters", "%q is not a key to filter by", kms.Clip(one.Key))
		}
		if len(one.Values) == 0 || len(one.Values) > maxFilterValues {
			return nil, kms.InvalidParameter("Filters", "a filter has 1 to %d Values", maxFilterValues)
		}
	}
	return f, nil
}

func (f filters) match(c *call, k store.Key) bool {
	for _, one := range f {
		if one.Key == filterAliasName {
			if !slices.ContainsFunc(one.Values, func(name string) bool {
				alias, err := c.records.Aliases().Get(name)
				return err == nil && alias.KeyId == k.KeyId
			}) {
				return false
			}
			continue
		}
		has := filterKeys[one.Key](c.server, k)
		if !slices.ContainsFunc(one.Values, func(v string) bool { return slices.Contains(has, v) }) {
			return false
		}
	}
	return true
}
