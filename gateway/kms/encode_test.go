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

// responses returns one of every type.
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
		new(kms.GetAuditHeadResponse),
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

// fill sets every member of a response: texts to the member's name, numbers to 7, and
// lists to so many members.
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
			v.SetBytes([]byte{0xfb, 0xff, 0, 1}) // + and / in Base64, and padding
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

// TestResponses writes every response in both formats, with full and with empty lists:
// clients must never see null.
func TestResponses(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	write := func(r kms.Response, f *kms.Format) {
		t.Helper()
		text, err := f.Encode(reflect.TypeOf(r).Elem().Name(), r)
		if err != nil {
			t.Errorf("%T: %v", r, err)
		}
		got.Write(text)
	}
	for _, r := range responses() {
		if _, ok := r.(*kms.DescribeTokenResponse); ok {
			continue // its members are hsm's
		}
		for _, members := range []int{1, 0} {
			fill(reflect.ValueOf(r).Elem(), "", members)
			write(r, kms.FormatJSON)
			if members > 0 {
				write(r, kms.FormatXML)
			}
		}
	}
	if bytes.Contains(got.Bytes(), []byte("null")) {
		t.Error("an answer has null")
	}
}

// TestResponsesAreComplete: every type of a response is in the list above.
func TestResponsesAreComplete(t *testing.T) {
	t.Parallel()
	listed := make(map[string]bool)
	for _, r := range responses() {
		listed[reflect.TypeOf(r).Elem().Name()] = true
		r.SetRequestId("id")
		if text, err := kms.EncodeJSON("", r); err != nil || !bytes.HasPrefix(text, []byte(`{"RequestId":"id"`)) {
			t.Errorf("%T: %.40s, %v", r, text, err)
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
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.Name != "Response" && strings.HasSuffix(spec.Name.Name, "Response") && !listed[spec.Name.Name] {
				t.Errorf("%s is not among the responses of this test", spec.Name.Name)
			}
			return true
		})
	}
}

// TestFormat takes the parameter Format in any case. What is neither JSON nor XML is
// refused, in JSON.
func TestFormat(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]*kms.Format{"": kms.FormatJSON, "JSON": kms.FormatJSON, "json": kms.FormatJSON, "XML": kms.FormatXML, "xMl": kms.FormatXML} {
		if err := kms.CheckFormat(name); err != nil || kms.FormatOf(name) != want {
			t.Errorf("%q: %v, %v", name, kms.FormatOf(name), err)
		}
	}
	for _, name := range []string{"yaml", " XML", "XML\x00"} {
		if err := kms.CheckFormat(name); err == nil || kms.FormatOf(name) != kms.FormatJSON {
			t.Errorf("%q: %v, %v", name, kms.FormatOf(name), err)
		}
	}
	if kms.FormatJSON.ContentType != "application/json;charset=utf-8" || kms.FormatXML.ContentType != "text/xml;charset=utf-8" {
		t.Errorf("%q, %q: SDKs compare them to the letter", kms.FormatJSON.ContentType, kms.FormatXML.ContentType)
	}
}

// TestEncodeText writes what clients may have sent so that it is read again as it was.
func TestEncodeText(t *testing.T) {
	t.Parallel()
	r := kms.GetKeyPolicyResponse{Policy: "a<b>&\"c\"\\ \n中"}
	text, err := kms.FormatJSON.Encode("", &r)
	if err != nil || strings.Contains(string(text), `\u`) || bytes.HasSuffix(text, []byte("\n")) {
		t.Errorf("%s, %v", text, err)
	}
	var again kms.GetKeyPolicyResponse
	if err := json.Unmarshal(text, &again); err != nil || again != r {
		t.Errorf("%+v, %v", again, err)
	}
	text, err = kms.FormatXML.Encode("GetKeyPolicyResponse", &r)
	want := `<?xml version="1.0" encoding="UTF-8"?>` + "\n<GetKeyPolicyResponse><RequestId></RequestId><Policy>a&lt;b&gt;&amp;&#34;c&#34;\\ &#xA;中</Policy></GetKeyPolicyResponse>"
	if err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
}

// TestErrors: each error has a code of its own, and Is tells errors by code and status
// whatever their message.
func TestErrors(t *testing.T) {
	t.Parallel()
	for name, all := range map[string][]kms.Error{"API": kms.Errors(), "administration": kms.AdminErrors(), "native": kms.NativeErrors()} {
		var codes []string
		for _, e := range all {
			if e.Status < 400 || e.Status > 599 || e.Code == "" || e.Message == "" {
				t.Errorf("%s: %+v", name, e)
			}
			codes = append(codes, fmt.Sprint(e.Status, e.Code))
		}
		slices.Sort(codes)
		if len(slices.Compact(codes)) != len(all) {
			t.Errorf("%s: a code is there twice", name)
		}
	}
	e := kms.ErrKeyNotFound
	for _, other := range []*kms.Error{e.Saying("%d", 1), e.Because("%d", 1)} {
		if !other.Is(e) || other.Message == e.Message || other.Is(kms.ErrAliasNotFound) {
			t.Errorf("%v", other)
		}
	}
	if got := e.Because("It has %d.", 1).Message; got != e.Message+" It has 1." {
		t.Errorf("%q", got)
	}
	if kms.ErrTooLarge.Is(kms.ErrInvalidParameter) {
		t.Error("errors of one code and two statuses are one")
	}
}

// TestDryRunError tells a dry run what the request would have been answered with, and
// faults and quotas as they are.
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
			t.Errorf("%v: %v, want %s", e, got, want)
		}
	}
	if got := kms.DryRunError(kms.ErrKeyNotFound); !strings.Contains(got.Message, kms.ErrKeyNotFound.Code) || !strings.Contains(got.Message, kms.ErrKeyNotFound.Message) {
		t.Errorf("%v", got)
	}
}
