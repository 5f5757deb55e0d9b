package kms_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestARNs checks that ARNs are spelled as in policies.
func TestARNs(t *testing.T) {
	t.Parallel()
	a := kms.ARNs{RegionId: "cn-hangzhou", AccountId: "1000000000000001"}
	for got, want := range map[string]string{
		a.Resource("*"):     "acs:kms:cn-hangzhou:1000000000000001:*",
		a.Key("k1"):         "acs:kms:cn-hangzhou:1000000000000001:key/k1",
		a.Key(""):           "acs:kms:cn-hangzhou:1000000000000001:key/",
		a.Alias("alias/a"):  "acs:kms:cn-hangzhou:1000000000000001:alias/a",
		a.Instance("kst-1"): "acs:kms:cn-hangzhou:1000000000000001:keystore/kst-1",
		a.Root():            "acs:ram::1000000000000001:root",
		a.User("ops"):       "acs:ram::1000000000000001:user/ops",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestTime checks that FormatTime writes UTC with a resolution of one second, and that ParseTime
// accepts only that form.
func TestTime(t *testing.T) {
	t.Parallel()
	const text = "2026-11-21T12:56:37Z"
	date := time.Date(2026, 11, 21, 20, 56, 37, 999, time.FixedZone("", 8*3600))
	if got := kms.FormatTime(date); got != text {
		t.Errorf("FormatTime: %q, want %q", got, text)
	}
	if got := kms.FormatTime(time.Time{}); got != "" {
		t.Errorf("FormatTime of the zero time: %q, want an empty text", got)
	}
	want := date.Truncate(time.Second)
	if got, err := kms.ParseTime("NotAfter", text); err != nil || !got.Equal(want) || got.Location() != time.UTC {
		t.Errorf("ParseTime: %v, %v, want %v in UTC", got, err, want)
	}
	for _, text := range []string{
		"", "2026-11-21", "2026-11-21T12:56:37", "2026-11-21T12:56:37+08:00", "2026-11-21T12:56:37.5Z",
		"2026-11-21T1:56:37Z", "2026-02-30T00:00:00Z", "1999-12-31T23:59:59Z", "2026-11-21T12:56:37Z ",
	} {
		got, err := kms.ParseTime("NotAfter", text)
		if !errors.Is(err, kms.ErrInvalidParameter) || !strings.Contains(err.Error(), "NotAfter") {
			t.Errorf("ParseTime(%q): %v, %v, want an InvalidParameter error that names NotAfter", text, got, err)
		}
	}
}

// TestPage checks that pages are numbered from 1, that the last page may be short, and that a page
// past the end is empty.
func TestPage(t *testing.T) {
	t.Parallel()
	p := kms.NewPage(nil, nil, kms.DefaultPageSize)
	if p.PageNumber != 1 || p.PageSize != 10 || p.Skip() != 0 {
		t.Errorf("NewPage without parameters: %+v, want page 1 with 10 members", p)
	}
	all := []int{0, 1, 2, 3, 4}
	for _, tc := range []struct {
		number, size string
		want         []int // nil means that the request is refused
	}{
		{"1", "2", []int{0, 1}}, {"2", "2", []int{2, 3}}, {"3", "2", []int{4}}, {"4", "2", []int{}},
		{"1", "100", all}, {"2147483647", "100", []int{}},
		{"0", "2", nil}, {"-1", "2", nil}, {"1", "0", nil}, {"1", "101", nil}, {"1", "-1", nil}, {"2147483648", "2", nil},
	} {
		var req kms.ListKeysRequest
		err := kms.Decode(map[string]string{"PageNumber": tc.number, "PageSize": tc.size}, &req)
		if tc.want == nil {
			if !errors.Is(err, kms.ErrInvalidParameter) {
				t.Errorf("page %s of size %s: %v, want InvalidParameter", tc.number, tc.size, err)
			}
			continue
		}
		got := kms.Cut(all, kms.NewPage(req.PageNumber, req.PageSize, kms.DefaultPageSize))
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("page %s of size %s: %v, %v, want %v", tc.number, tc.size, got, err, tc.want)
		}
	}
}

// TestParameters checks that every parameter of every operation has a valid description, and that
// Decode enforces each kind of limit.
func TestParameters(t *testing.T) {
	t.Parallel()
	limited := 0
	for _, o := range kms.Operations {
		for _, p := range o.Parameters() {
			if p.Kind == "" || p.Name == "" || p.Max != nil && *p.Max <= 0 || p.MaxBytes < 0 || p.MaxChars < 0 {
				t.Errorf("%s: invalid description of a parameter: %+v", o.Name, p)
			}
			if p.Limits() != "" {
				limited++
			}
		}
	}
	if limited < 30 {
		t.Errorf("%d parameters have limits, want 30 or more", limited)
	}
	var limits struct {
		Number *int    `kms:"min=7,max=366"`
		Max    *int    `kms:"max=3"`
		Bytes  string  `kms:"bytes=4"`
		Chars  *string `kms:"chars=4"`
		Choice string  `kms:"oneof=A|B"`
	}
	for name, values := range map[string]struct{ accepted, refused []string }{
		"Number": {[]string{"", "7", "366"}, []string{"6", "367", "-7", "7.0", "x"}},
		"Max":    {[]string{"3", "-9"}, []string{"4"}},
		"Bytes":  {[]string{"", "abcd"}, []string{"abcde", "密钥"}},
		"Chars":  {[]string{"", "密钥密钥", "a\nb"}, []string{"abcde", "a\x00", "\xff"}},
		"Choice": {[]string{"", "A", "B"}, []string{"a", "C", "A|B"}},
	} {
		for _, value := range values.accepted {
			if err := kms.Decode(map[string]string{name: value}, &limits); err != nil {
				t.Errorf("%s=%q: %v, want no error", name, value, err)
			}
		}
		for _, value := range values.refused {
			err := kms.Decode(map[string]string{name: value}, &limits)
			if !errors.Is(err, kms.ErrInvalidParameter) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s=%q: %v, want an InvalidParameter error that names %s", name, value, err, name)
			}
		}
	}
}

// TestDecode checks which fields Decode fills. Lists can be sent flat or as JSON. A list sent in
// both ways is refused.
func TestDecode(t *testing.T) {
	t.Parallel()
	var tags kms.TagResourcesRequest
	for name, tc := range map[string]struct {
		parameters map[string]string
		ids        []string // nil means that the request is refused
	}{
		"flat":            {map[string]string{"ResourceId.1": "a", "ResourceId.2": "b"}, []string{"a", "b"}},
		"JSON":            {map[string]string{"ResourceId": `["a","b"]`}, []string{"a", "b"}},
		"a gap":           {map[string]string{"ResourceId.1": "a", "ResourceId.3": "b"}, nil},
		"from 0":          {map[string]string{"ResourceId.0": "a"}, nil},
		"both":            {map[string]string{"ResourceId": `["a"]`, "ResourceId.1": "a"}, nil},
		"not JSON":        {map[string]string{"ResourceId": `a`}, nil},
		"too many":        {map[string]string{"ResourceId": `["` + strings.Repeat(`a","`, kms.MaxList) + `a"]`}, nil},
		"none":            {map[string]string{}, nil},
		"a nested member": {map[string]string{"ResourceId.1.Key": "a"}, nil},
	} {
		tags = kms.TagResourcesRequest{}
		tc.parameters["RegionId"], tc.parameters["ResourceType"] = "r", "KEY"
		tc.parameters["Tag.1.Key"], tc.parameters["Tag.1.Value"], tc.parameters["Unknown"] = "k", "v", "x"
		err := kms.Decode(tc.parameters, &tags)
		if tc.ids == nil {
			if api := (*kms.Error)(nil); !errors.As(err, &api) || api.Status != 400 {
				t.Errorf("%s: %+v, %v, want an error with status 400", name, tags, err)
			}
			continue
		}
		wantTags := []kms.TagItem{{Key: "k", Value: "v"}}
		if err != nil || !slices.Equal(tags.ResourceId, tc.ids) || !slices.Equal(tags.Tag, wantTags) {
			t.Errorf("%s: %+v, %v, want ResourceId %v and Tag %v", name, tags, err, tc.ids, wantTags)
		}
	}
	var description kms.UpdateKeyDescriptionRequest
	if err := kms.Decode(map[string]string{"KeyId": "k", "Description": ""}, &description); err != nil {
		t.Errorf("empty Description: %v, want no error", err)
	}
	if err := kms.Decode(map[string]string{"KeyId": "k"}, &description); !errors.Is(err, kms.ErrMissingParameter) {
		t.Errorf("no Description: %v, want MissingParameter", err)
	}
	var change kms.UpdatePolicyRequest
	err := kms.Decode(map[string]string{"Name": "p", "Description": ""}, &change)
	if err != nil || change.Description == nil || *change.Description != "" || change.Resources != nil {
		t.Errorf("%+v, %v, want an empty Description and no Resources", change, err)
	}
}

// TestClip checks the length to which text from a request is truncated.
func TestClip(t *testing.T) {
	t.Parallel()
	if got := kms.Clip(strings.Repeat("a", kms.MaxEcho)); len(got) != kms.MaxEcho {
		t.Errorf("Clip of %d bytes: %d bytes, want all", kms.MaxEcho, len(got))
	}
	if got, want := kms.Clip(strings.Repeat("a", 1<<20)), strings.Repeat("a", kms.MaxEcho)+"…"; got != want {
		t.Errorf("Clip of 1 MiB: %d bytes, want %d", len(got), len(want))
	}
	if got, want := kms.ClipTo(2, "abc"), "ab…"; got != want {
		t.Errorf("ClipTo: %q, want %q", got, want)
	}
}
