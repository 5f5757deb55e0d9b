package gateway

import (
	"encoding/json"
	"slices"

	"github.com/kmsgate/kmsgate/store"
)

const (
	defaultPageSize = 10
	maxPageSize     = 100
	maxFilters      = 20 // more than there are filter keys
	maxFilterValues = 100
)

// pageInfo is what responses say of their page. Pages count from 1.
type pageInfo struct {
	PageNumber int
	PageSize   int
	TotalCount int
}

func (p pageInfo) skip() int { return (p.PageNumber - 1) * p.PageSize }

// cut gives the page of a list that is there as a whole.
func cut[T any](all []T, p pageInfo) []T {
	return all[min(p.skip(), len(all)):min(p.skip()+p.PageSize, len(all))]
}

// newPage fills in what a request left out.
func newPage(number, size *int) (pageInfo, error) {
	p := pageInfo{PageNumber: 1, PageSize: defaultPageSize}
	if number != nil {
		p.PageNumber = *number
	}
	if size != nil {
		p.PageSize = *size
	}
	if p.PageNumber < 1 {
		return p, invalidParameter("PageNumber", "%d is not 1 or more", p.PageNumber)
	}
	if p.PageSize < 1 || p.PageSize > maxPageSize {
		return p, invalidParameter("PageSize", "%d is not 1 to %d", p.PageSize, maxPageSize)
	}
	return p, nil
}

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
		return nil, invalidParameter("Filters", `it has to be JSON: [{"Key":"KeyState","Values":["Enabled"]}]`)
	}
	for _, one := range f {
		if _, ok := filterKeys[one.Key]; !ok && one.Key != filterAliasName {
			return nil, invalidParameter("Filters", "%q is not a key to filter by", clip(one.Key))
		}
		if len(one.Values) == 0 || len(one.Values) > maxFilterValues {
			return nil, invalidParameter("Filters", "a filter has 1 to %d Values", maxFilterValues)
		}
	}
	return f, nil
}

// page gives the keys of one page and the number of all that the filters
// select.
func (f filters) page(s *Server, records *store.Records, p pageInfo) (page []store.Key, total int) {
	if len(f) == 0 {
		return records.Keys().Page(p.skip(), p.PageSize), records.Keys().Len()
	}
	for k := range records.Keys().All() {
		if !f.match(s, records, k) {
			continue
		}
		if total >= p.skip() && len(page) < p.PageSize {
			page = append(page, k)
		}
		total++
	}
	return page, total
}

func (f filters) match(s *Server, records *store.Records, k store.Key) bool {
	for _, one := range f {
		if one.Key == filterAliasName {
			if !slices.ContainsFunc(one.Values, func(name string) bool {
				alias, err := records.Aliases().Get(name)
				return err == nil && alias.KeyId == k.KeyId
			}) {
				return false
			}
			continue
		}
		has := filterKeys[one.Key](s, k)
		if !slices.ContainsFunc(one.Values, func(v string) bool { return slices.Contains(has, v) }) {
			return false
		}
	}
	return true
}
