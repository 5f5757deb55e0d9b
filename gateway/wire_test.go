package gateway_test

import (
	"encoding/xml"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// varying lists the parts of an answer that differ from run to run, and their replacements.
var varying = []struct {
	pattern     *regexp.Regexp
	replacement string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`(?s)-----BEGIN PUBLIC KEY-----.*-----END PUBLIC KEY-----(\\n|&#xA;|\n)`), "PEM"},
	{regexp.MustCompile(`(?s)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----(\\n|&#xA;|\n)`), "CERTIFICATE"},
	{regexp.MustCompile(`MII[A-Za-z0-9+/]{1000,}={0,2}`), "PKCS12"},
	{regexp.MustCompile(`ME[A-Za-z0-9+/]{80,100}={0,2}`), "SIGNATURE"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "HOST"},
}

// TestWire compares complete answers, as sent on the wire, with golden files.
func TestWire(t *testing.T) {
	b := newBench(t)
	b.accessPoint("app")
	clientKeyId := b.clientKey("app")
	for _, tc := range []struct {
		name, action string
		params       []string
	}{
		{"AsymmetricSign", "AsymmetricSign", b.signParams()},
		{"AsymmetricVerify", "AsymmetricVerify", b.signParams("Value", "AAAA")},
		{"GetPublicKey", "GetPublicKey", b.signParams()},
		{"DescribeKey", "DescribeKey", []string{"KeyId", "alias/test"}},
		{"ListKeys", "ListKeys", nil},
		{"ListKeys-empty", "ListKeys", []string{"PageNumber", "9"}},
		{"ListKeyVersions", "ListKeyVersions", []string{"KeyId", "alias/test"}},
		{"DescribeKeyVersion", "DescribeKeyVersion", b.signParams()},
		{"ListAliases", "ListAliases", nil},
		{"DescribeRegions", "DescribeRegions", nil},
		{"EnableKey", "EnableKey", []string{"KeyId", b.key.KeyId}},
		{"GetKmsInstance", "GetKmsInstance", []string{"KmsInstanceId", instance.InstanceId}},
		{"ListKmsInstances", "ListKmsInstances", nil},
		{"GetKeyPolicy", "GetKeyPolicy", []string{"KeyId", b.key.KeyId}},
		{"TagResource", "TagResource", []string{"KeyId", b.key.KeyId, "Tags", `[{"TagKey":"k&<","TagValue":"v"}]`}},
		{"ListResourceTags", "ListResourceTags", []string{"KeyId", b.key.KeyId}},
		{"ListTagResources", "ListTagResources",
			[]string{"RegionId", "cn-hangzhou", "ResourceType", "key", "ResourceId.1", b.key.KeyId}},
		{"DescribeNetworkRule", "DescribeNetworkRule", []string{"Name", "app"}},
		{"ListNetworkRules", "ListNetworkRules", nil},
		{"DescribePolicy", "DescribePolicy", []string{"Name", "app"}},
		{"ListPolicies", "ListPolicies", nil},
		{"DescribeApplicationAccessPoint", "DescribeApplicationAccessPoint", []string{"Name", "app"}},
		{"ListApplicationAccessPoints", "ListApplicationAccessPoints", nil},
		{"GetClientKey", "GetClientKey", []string{"ClientKeyId", clientKeyId}},
		{"ListClientKeys", "ListClientKeys", []string{"AapName", "app"}},
		{"CreateNetworkRule", "CreateNetworkRule",
			[]string{"Name", "new-FORMAT", "Type", "Private", "SourcePrivateIp", `["10.0.0.1/8","::1"]`}},
		{"CreatePolicy", "CreatePolicy",
			[]string{"Name", "new-FORMAT", "Permissions", keyUser, "Resources", `["key/*","secret/*"]`,
				"AccessControlRules", `{"NetworkRules":["app"]}`}},
		{"CreateApplicationAccessPoint", "CreateApplicationAccessPoint",
			[]string{"Name", "new-FORMAT", "Policies", `["app"]`}},
		{"CreateClientKey", "CreateClientKey", []string{"AapName", "app", "Password", "password1"}},
		{"error", "DescribeKey", []string{"KeyId", "alias/none"}},
		// CreateKey is last, because it changes the answers of lists.
		{"CreateKey", "CreateKey", []string{"KeySpec", "EC_P256", "Description", "a&b<c>d \"e\" 中 +~*"}},
	} {
		name := tc.name
		for _, format := range []string{"json", "XML"} {
			p := params(append(slices.Clone(tc.params), "Format", format)...)
			if p["Name"] != "" { // each name can be used only once
				p["Name"] = strings.ReplaceAll(p["Name"], "FORMAT", format)
			}
			resp, err := b.http.Client().Get(b.http.URL + "/?" + b.sign(b.root, "GET", tc.action, p).Encode())
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, "wire/"+name+"."+strings.ToLower(format), wire(resp, body))
			if format == "XML" {
				checkXML(t, name, body)
			}
		}
	}
}

// wire returns the text of an answer with the varying parts replaced.
func wire(resp *http.Response, body []byte) string {
	text := resp.Status + "\nContent-Type: " + resp.Header.Get("Content-Type") + "\n\n" + string(body) + "\n"
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.replacement)
	}
	return text
}

// checkXML parses an answer as XML clients do, with any root element and with members by name. It
// checks that the answer has a RequestId, and a Code only if name is "error".
func checkXML(t *testing.T, name string, body []byte) {
	t.Helper()
	var got struct{ RequestId, Code string }
	if err := xml.Unmarshal(body, &got); err != nil || got.RequestId == "" || (got.Code == "") == (name == "error") {
		t.Errorf("%s: %+v, %v, want a RequestId, and a Code only in an error", name, got, err)
	}
}

// checkGolden compares an answer with a golden file.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestXMLErrors checks that a client that requests XML gets every error as XML.
func TestXMLErrors(t *testing.T) {
	b := newBench(t)
	for _, query := range []string{
		"Format=xml", "Format=xml&a=1&a=2", "Format=Xml&Signature=x",
		"Format=XML&" + b.sign(credential{"none", "x"}, "GET", "ListKeys", nil).Encode(),
	} {
		resp, err := b.http.Client().Get(b.http.URL + "/?" + query)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.Header.Get("Content-Type") != "text/xml;charset=utf-8" {
			t.Errorf("%.30s: Content-Type %q, %v, want text/xml;charset=utf-8: %s",
				query, resp.Header.Get("Content-Type"), err, body)
		}
		checkXML(t, "error", body)
	}
}
