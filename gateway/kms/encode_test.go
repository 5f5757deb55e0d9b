package kms_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// responses returns an empty response of every type.
func responses() []kms.Response {
	return []kms.Response{
		new(kms.AccessPointResponse),
		new(kms.AsymmetricSignResponse),
		new(kms.AsymmetricVerifyResponse),
		new(kms.CreateAccessKeyResponse),
		new(kms.CreateClientKeyResponse),
		new(kms.CreateKeyResponse),
		new(kms.CreateNetworkRuleResponse),
		new(kms.CreatePolicyResponse),
		new(kms.CreateUserResponse),
		new(kms.DescribeAccountKmsStatusResponse),
		new(kms.DescribeKeyResponse),
		new(kms.DescribeNetworkRuleResponse),
		new(kms.DescribePolicyResponse),
		new(kms.DescribeRegionsResponse),
		new(kms.DescribeTokenResponse),
		new(kms.EmptyResponse),
		new(kms.GenerateRandomResponse),
		new(kms.CreateAttestationResponse),
		new(kms.GetAuditHeadResponse),
		new(kms.DescribeClockResponse),
		new(kms.GetClientKeyResponse),
		new(kms.GetKeyPolicyResponse),
		new(kms.GetKmsInstanceResponse),
		new(kms.GetPublicKeyResponse),
		new(kms.GetRamPolicyResponse),
		new(kms.KeyVersionResponse),
		new(kms.ListAccessKeysResponse),
		new(kms.ListAliasesResponse),
		new(kms.ListApplicationAccessPointsResponse),
		new(kms.ListClientKeysResponse),
		new(kms.ListKeyVersionUsesResponse),
		new(kms.ListKeyVersionsResponse),
		new(kms.ListKeysResponse),
		new(kms.ListKmsInstancesResponse),
		new(kms.ListNetworkRulesResponse),
		new(kms.ListPoliciesResponse),
		new(kms.ListQuotasResponse),
		new(kms.ListRamPoliciesResponse),
		new(kms.ListResourceTagsResponse),
		new(kms.ListTagResourcesResponse),
		new(kms.ListTokenObjectsResponse),
		new(kms.ListUsersResponse),
		new(kms.SimulatePolicyResponse),
		new(kms.TestKeyVersionResponse),
	}
}

// fill sets every member of a response: texts to the name of the member, numbers to 7 or 7.5, and
// lists to the given number of members.
func fill(v reflect.Value, name string, members int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), v.Type().Field(i).Name, members)
		}
	case reflect.String:
		v.SetString(name)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(7.5)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{0xfb, 0xff, 0, 1}) // Base64 with +, / and padding
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), members, members))
		for i := range members {
			fill(v.Index(i), name, members)
		}
	default:
		panic("fill: " + v.Type().String())
	}
}

// TestResponses encodes every response in both formats, with full and with empty lists. No answer
// may contain null.
func TestResponses(t *testing.T) {
	t.Parallel()
	var all bytes.Buffer
	encode := func(r kms.Response, f *kms.Format) {
		t.Helper()
		if err := f.Encode(&all, strings.TrimSuffix(reflect.TypeOf(r).Elem().Name(), "Response"), r); err != nil {
			t.Errorf("%T: %v", r, err)
		}
	}
	for _, r := range responses() {
		if _, ok := r.(*kms.DescribeTokenResponse); ok {
			continue // package hsm defines its members
		}
		for _, members := range []int{1, 0} {
			fill(reflect.ValueOf(r).Elem(), "", members)
			encode(r, kms.FormatJSON)
			if members > 0 {
				encode(r, kms.FormatXML)
			}
		}
	}
	if bytes.Contains(all.Bytes(), []byte("null")) {
		t.Error("an answer contains null")
	}
}

// TestResponsesAreComplete checks that responses returns every type of response.
func TestResponsesAreComplete(t *testing.T) {
	t.Parallel()
	listed := make(map[string]bool)
	for _, r := range responses() {
		listed[reflect.TypeOf(r).Elem().Name()] = true
		r.SetRequestId("id")
		var text bytes.Buffer
		if err := kms.EncodeJSON(&text, r); err != nil || !strings.HasPrefix(text.String(), `{"RequestId":"id"`) {
			t.Errorf("%T: %.40s, %v, want a RequestId first", r, text.String(), err)
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if name := spec.Name.Name; name != "Response" && strings.HasSuffix(name, "Response") && !listed[name] {
				t.Errorf("the function responses does not return a %s", name)
			}
			return true
		})
	}
}

// TestFormat checks that the parameter Format is accepted in any letter case, and that any value
// other than JSON and XML is refused, in JSON.
func TestFormat(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]*kms.Format{
		"": kms.FormatJSON, "JSON": kms.FormatJSON, "json": kms.FormatJSON, "XML": kms.FormatXML, "xMl": kms.FormatXML,
	} {
		if err := kms.CheckFormat(name); err != nil || kms.FormatOf(name) != want {
			t.Errorf("Format %q: %s, %v, want %s", name, kms.FormatOf(name).ContentType, err, want.ContentType)
		}
	}
	for _, name := range []string{"yaml", " XML", "XML\x00"} {
		if err := kms.CheckFormat(name); err == nil || kms.FormatOf(name) != kms.FormatJSON {
			t.Errorf("Format %q: %s, %v, want an error and JSON", name, kms.FormatOf(name).ContentType, err)
		}
	}
	// SDKs compare the content types as strings.
	if got, want := kms.FormatJSON.ContentType, "application/json;charset=utf-8"; got != want {
		t.Errorf("ContentType of JSON: %q, want %q", got, want)
	}
	if got, want := kms.FormatXML.ContentType, "text/xml;charset=utf-8"; got != want {
		t.Errorf("ContentType of XML: %q, want %q", got, want)
	}
}

// TestEncodeText checks that text with special characters survives encoding and decoding.
func TestEncodeText(t *testing.T) {
	t.Parallel()
	r := kms.GetKeyPolicyResponse{Policy: "a<b>&\"c\"\\ \n中"}
	var text bytes.Buffer
	err := kms.FormatJSON.Encode(&text, "", &r)
	if err != nil || strings.Contains(text.String(), `\u`) || strings.HasSuffix(text.String(), "\n") {
		t.Errorf("JSON: %q, %v, want no \\u escape and no newline at the end", text.String(), err)
	}
	var decoded kms.GetKeyPolicyResponse
	if err := json.Unmarshal(text.Bytes(), &decoded); err != nil || decoded != r {
		t.Errorf("decoded JSON: %+v, %v, want %+v", decoded, err, r)
	}
	text.Reset()
	err = kms.FormatXML.Encode(&text, "GetKeyPolicy", &r)
	want := `<?xml version="1.0" encoding="UTF-8"?>` + "\n<GetKeyPolicyResponse><RequestId></RequestId>" +
		"<Policy>a&lt;b&gt;&amp;&#34;c&#34;\\ &#xA;中</Policy></GetKeyPolicyResponse>"
	if err != nil || text.String() != want {
		t.Errorf("XML: %s, %v, want %s", text.String(), err, want)
	}
}

// TestErrors checks that no two errors share both status and code, and that Is compares status and
// code but not messages.
func TestErrors(t *testing.T) {
	t.Parallel()
	for name, all := range map[string][]kms.Error{
		"API": kms.Errors(), "administration": kms.AdminErrors(), "native": kms.NativeErrors(),
	} {
		var codes []string
		for _, e := range all {
			if e.Status < 400 || e.Status > 599 || e.Code == "" || e.Message == "" {
				t.Errorf("%s: %+v, want a status from 400 to 599, a code and a message", name, e)
			}
			codes = append(codes, fmt.Sprint(e.Status, e.Code))
		}
		slices.Sort(codes)
		if len(slices.Compact(codes)) != len(all) {
			t.Errorf("%s: two errors share status and code: %v", name, codes)
		}
	}
	e := kms.ErrKeyNotFound
	for _, other := range []*kms.Error{e.Saying("%d", 1), e.Because("%d", 1)} {
		if !other.Is(e) || other.Message == e.Message || other.Is(kms.ErrAliasNotFound) {
			t.Errorf("%v, want the same error as %v with another message", other, e)
		}
	}
	if got, want := e.Because("It has %d.", 1).Message, e.Message+" It has 1."; got != want {
		t.Errorf("Because: %q, want %q", got, want)
	}
	if kms.ErrTooLarge.Is(kms.ErrInvalidParameter) {
		t.Error("two errors with one code and different statuses are the same")
	}
}

// TestDryRunError checks the answers to dry runs. Faults of the gateway and throttling are
// unchanged; for other errors, the answer says how the request would have failed.
func TestDryRunError(t *testing.T) {
	t.Parallel()
	for e, want := range map[*kms.Error]string{
		kms.ErrNoPermission.Because("x"): "403 AccessDeniedError",
		kms.ErrUnavailable:               "503 ServiceUnavailableTemporary",
		kms.ErrInternal:                  "500 InternalFailure",
		kms.ErrThrottling:                "429 Rejected.Throttling",
		kms.ErrDryRun:                    "400 DryRunOperationError",
		kms.ErrKeyNotFound:               "400 ValidationError",
	} {
		got := kms.DryRunError(e)
		if fmt.Sprintf("%d %s", got.Status, got.Code) != want {
			t.Errorf("DryRunError(%v): %v, want %s", e, got, want)
		}
	}
	e, got := kms.ErrKeyNotFound, kms.DryRunError(kms.ErrKeyNotFound)
	if !strings.Contains(got.Message, e.Code) || !strings.Contains(got.Message, e.Message) {
		t.Errorf("DryRunError(%v): %v, want a message with its code and message", e, got)
	}
}
