package kms_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestARNs spells ARNs as policies do.
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

// TestTime writes UTC to the second, and reads nothing else.
func TestTime(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 20, 56, 37, 999, time.FixedZone("", 8*3600))
	if got := kms.FormatTime(at); got != "2026-11-21T12:56:37Z" {
		t.Error(got)
	}
	if got := kms.FormatTime(time.Time{}); got != "" {
		t.Errorf("the zero time is %q", got)
	}
	if got, err := kms.ParseTime("NotAfter", "2026-11-21T12:56:37Z"); err != nil || !got.Equal(at.Truncate(time.Second)) || got.Location() != time.UTC {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "2026-11-21", "2026-11-21T12:56:37", "2026-11-21T12:56:37+08:00", "2026-11-21T12:56:37.5Z", "2026-11-21T1:56:37Z", "2026-02-30T00:00:00Z", "1999-12-31T23:59:59Z", "2026-11-21T12:56:37Z "} {
		if got, err := kms.ParseTime("NotAfter", text); !errors.Is(err, kms.ErrInvalidParameter) || !strings.Contains(err.Error(), "NotAfter") {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// TestPage counts pages from 1, and the last may be short or past the end.
func TestPage(t *testing.T) {
	t.Parallel()
	if p := kms.NewPage(nil, nil, kms.DefaultPageSize); p.PageNumber != 1 || p.PageSize != 10 || p.Skip() != 0 {
		t.Errorf("%+v", p)
	}
	all := []int{0, 1, 2, 3, 4}
	for _, tc := range []struct {
		number, size string
		want         []int // nil: refused
	}{
		{"1", "2", []int{0, 1}}, {"2", "2", []int{2, 3}}, {"3", "2", []int{4}}, {"4", "2", []int{}}, {"1", "100", all},
		{"2147483647", "100", []int{}},
		{"0", "2", nil}, {"-1", "2", nil}, {"1", "0", nil}, {"1", "101", nil}, {"1", "-1", nil}, {"2147483648", "2", nil},
	} {
		var req kms.ListKeysRequest
		err := kms.Decode(map[string]string{"PageNumber": tc.number, "PageSize": tc.size}, &req)
		if tc.want == nil {
			if !errors.Is(err, kms.ErrInvalidParameter) {
				t.Errorf("page %s of %s: %v", tc.number, tc.size, err)
			}
			continue
		}
		if got := kms.Cut(all, kms.NewPage(req.PageNumber, req.PageSize, kms.DefaultPageSize)); err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("page %s of %s: %v, %v, want %v", tc.number, tc.size, got, err, tc.want)
		}
	}
}

// TestParameters describes every parameter of every operation, and holds values to what
// the description says.
func TestParameters(t *testing.T) {
	t.Parallel()
	limited := 0
	for _, o := range kms.Operations {
		for _, p := range o.Parameters() {
			if p.Kind == "" || p.Name == "" || p.Max != nil && *p.Max <= 0 || p.MaxBytes < 0 || p.MaxChars < 0 {
				t.Errorf("%s: %+v", o.Name, p)
			}
			if p.Limits() != "" {
				limited++
			}
		}
	}
	if limited < 30 {
		t.Errorf("only %d parameters have limits", limited)
	}
	var limits struct {
		Number *int    `kms:"min=7,max=366"`
		Most   *int    `kms:"max=3"`
		Bytes  string  `kms:"bytes=4"`
		Chars  *string `kms:"chars=4"`
		Choice string  `kms:"oneof=A|B"`
	}
	for name, values := range map[string]struct{ taken, refused []string }{
		"Number": {[]string{"", "7", "366"}, []string{"6", "367", "-7", "7.0", "x"}},
		"Most":   {[]string{"3", "-9"}, []string{"4"}},
		"Bytes":  {[]string{"", "abcd"}, []string{"abcde", "密钥"}},
		"Chars":  {[]string{"", "密钥密钥", "a\nb"}, []string{"abcde", "a\x00", "\xff"}},
		"Choice": {[]string{"", "A", "B"}, []string{"a", "C", "A|B"}},
	} {
		for _, value := range values.taken {
			if err := kms.Decode(map[string]string{name: value}, &limits); err != nil {
				t.Errorf("%s=%q: %v", name, value, err)
			}
		}
		for _, value := range values.refused {
			if err := kms.Decode(map[string]string{name: value}, &limits); !errors.Is(err, kms.ErrInvalidParameter) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s=%q: %v", name, value, err)
			}
		}
	}
}

// TestDecode fills what was sent. Lists are sent flat or as JSON, and one that could be
// read in two ways is refused.
func TestDecode(t *testing.T) {
	t.Parallel()
	var tags kms.TagResourcesRequest
	for name, tc := range map[string]struct {
		parameters map[string]string
		ids        []string // nil: refused
	}{
		"flat":            {map[string]string{"ResourceId.1": "a", "ResourceId.2": "b"}, []string{"a", "b"}},
		"JSON":            {map[string]string{"ResourceId": `["a","b"]`}, []string{"a", "b"}},
		"a gap":           {map[string]string{"ResourceId.1": "a", "ResourceId.3": "b"}, nil},
		"from 0":          {map[string]string{"ResourceId.0": "a"}, nil},
		"both":            {map[string]string{"ResourceId": `["a"]`, "ResourceId.1": "a"}, nil},
		"not JSON":        {map[string]string{"ResourceId": `a`}, nil},
		"too many":        {map[string]string{"ResourceId": `["` + strings.Repeat(`a","`, kms.MaxList) + `a"]`}, nil},
		"none":            {map[string]string{}, nil},
		"a member of one": {map[string]string{"ResourceId.1.Key": "a"}, nil},
	} {
		tags = kms.TagResourcesRequest{}
		tc.parameters["RegionId"], tc.parameters["ResourceType"] = "r", "KEY"
		tc.parameters["Tag.1.Key"], tc.parameters["Tag.1.Value"], tc.parameters["Unknown"] = "k", "v", "x"
		err := kms.Decode(tc.parameters, &tags)
		if tc.ids == nil {
			if api := (*kms.Error)(nil); !errors.As(err, &api) || api.Status != 400 {
				t.Errorf("%s: %+v, %v", name, tags, err)
			}
			continue
		}
		if err != nil || !slices.Equal(tags.ResourceId, tc.ids) || !slices.Equal(tags.Tag, []kms.TagItem{{Key: "k", Value: "v"}}) {
			t.Errorf("%s: %+v, %v", name, tags, err)
		}
	}
	var description kms.UpdateKeyDescriptionRequest
	if err := kms.Decode(map[string]string{"KeyId": "k", "Description": ""}, &description); err != nil {
		t.Errorf("an empty text that has to be sent: %v", err)
	}
	if err := kms.Decode(map[string]string{"KeyId": "k"}, &description); !errors.Is(err, kms.ErrMissingParameter) {
		t.Errorf("a text that has to be sent: %v", err)
	}
	var change kms.UpdatePolicyRequest
	if err := kms.Decode(map[string]string{"Name": "p", "Description": ""}, &change); err != nil || change.Description == nil || *change.Description != "" || change.Resources != nil {
		t.Errorf("%+v, %v", change, err)
	}
}

// TestClip bounds what of a request is told again.
func TestClip(t *testing.T) {
	t.Parallel()
	if got := kms.Clip(strings.Repeat("a", kms.MaxEcho)); len(got) != kms.MaxEcho {
		t.Errorf("%d bytes", len(got))
	}
	if got := kms.Clip(strings.Repeat("a", 1<<20)); got != strings.Repeat("a", kms.MaxEcho)+"…" {
		t.Errorf("%d bytes", len(got))
	}
	if got := kms.ClipTo(2, "abc"); got != "ab…" {
		t.Error(got)
	}
}
