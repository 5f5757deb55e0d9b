package acs_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// rpcQuery is a query with everything that signature version 1.0 requires.
const rpcQuery = "AccessKeyId=a&Action=ListKeys&SignatureMethod=HMAC-SHA1&SignatureNonce=n&SignatureVersion=1.0&" +
	"Timestamp=2026-11-21T20%3A56%3A37Z&Version=2016-01-20&Signature=xGb0aK4e64qhEVweSoD%2BP4Hiefs%3D"

func rpcRequest(query string, contentType ...string) *http.Request {
	return &http.Request{Method: "POST", Host: "h", URL: &url.URL{Path: "/", RawQuery: query},
		Header: http.Header{"Content-Type": contentType}}
}

// decode is a second implementation of decoding, by the standard library. ok reports whether the
// parameters are acceptable.
func decode(text string) (parameters map[string]string, ok bool) {
	values, err := url.ParseQuery(text)
	if err != nil {
		return nil, false
	}
	parameters = make(map[string]string)
	for name, v := range values {
		valid := strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
		if len(v) != 1 || name == "" || !valid {
			return nil, false
		}
		parameters[name] = v[0]
	}
	return parameters, true
}

// stringToSign is a second implementation of the string to sign of signature version 1.0.
func stringToSign(parameters map[string]string) string {
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if name != "Signature" {
			parts = append(parts, escape(name)+"="+escape(parameters[name]))
		}
	}
	return "POST&%2F&" + escape(strings.Join(parts, "&"))
}

// FuzzParameters compares the decoding of parameters, in the query and in the form, with the standard
// library's.
func FuzzParameters(f *testing.F) {
	for _, text := range []string{
		"", "&", "&&", "a=b", "a", "a=", "=b", "a=b=c", "a=+%20%2B*%2a~-._", "a=%", "a=%z", "a=%zz", "a=%4", "%61=b", "%zz=b",
		"a=b;c=d", "a;b", "a%3Bb=c", "a=%3B", "a=b&a=b", "a=b&%61=c", "a+b=c", "a%20b=c", "KeyId=\x00", "a=\xff\xfe", "a=中",
		"Action=x", "SecurityToken=t", "ä=b", "a=?/#", "A=1&a=2",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 256 {
			return // fewer parameters than are allowed, with names that are not too long
		}
		whole := rpcQuery + "&" + text
		want, ok := decode(whole)
		for place, parse := range map[string]func() (*acs.Claim, error){
			"query": func() (*acs.Claim, error) { return acs.Parse(rpcRequest(whole), "") },
			"form": func() (*acs.Claim, error) {
				return acs.Parse(rpcRequest("", "application/x-www-form-urlencoded"), whole)
			},
			"both": func() (*acs.Claim, error) {
				return acs.Parse(rpcRequest(rpcQuery, "application/x-www-form-urlencoded"), text)
			},
		} {
			claim, err := parse()
			if errors.Is(err, acs.ErrParameters) == ok {
				t.Errorf("%q in the %s: got %v, want it refused as malformed: %v", text, place, err, !ok)
			}
			if err != nil {
				continue
			}
			if diff := cmp.Diff(stringToSign(want), claim.StringToSign()); diff != "" {
				t.Errorf("%q in the %s: string to sign: %s", text, place, diff)
			}
			for name, value := range claim.Parameters() {
				if got, ok := want[name]; !ok || got != value {
					t.Errorf("%q in the %s: got %s=%q, want %q", text, place, name, value, got)
				}
			}
		}
	})
}

// TestParameterLimits sends as many parameters as are allowed and one more, and names that are too
// long. The limit has room for the largest documented request.
func TestParameterLimits(t *testing.T) {
	const own = 8 // parameters in rpcQuery
	largest := 0
	for _, o := range kms.Operations {
		n := 0
		for i := range o.Request.NumField() {
			switch field := o.Request.Field(i).Type; {
			case field.Kind() != reflect.Slice || field.Elem().Kind() == reflect.Uint8:
				n++
			case field.Elem().Kind() == reflect.Struct:
				n += kms.MaxList * field.Elem().NumField()
			default:
				n += kms.MaxList
			}
		}
		largest = max(largest, n)
	}
	if spare := acs.MaxParameters - largest - own; spare < 50 {
		t.Errorf("the largest operation has %d parameters: %d are left for others, want at least 50", largest, spare)
	}
	send := func(n int) error {
		var b strings.Builder
		for i := range n - own {
			fmt.Fprintf(&b, "&p.%d=x", i)
		}
		_, err := acs.Parse(rpcRequest(rpcQuery+b.String()), "")
		return err
	}
	if err := send(acs.MaxParameters); err != nil {
		t.Errorf("%d parameters: got %v, want nil", acs.MaxParameters, err)
	}
	if err := send(acs.MaxParameters + 1); !errors.Is(err, acs.ErrParameters) {
		t.Errorf("%d parameters: got %v, want ErrParameters", acs.MaxParameters+1, err)
	}
	form := strings.Repeat("&", acs.MaxParameters)
	if _, err := acs.Parse(rpcRequest(rpcQuery, "application/x-www-form-urlencoded"), form); !errors.Is(err, acs.ErrParameters) {
		t.Errorf("nothing but separators: got %v, want ErrParameters", err)
	}
	if _, err := acs.Parse(rpcRequest(rpcQuery+"&"+strings.Repeat("n", 257)+"=x"), ""); !errors.Is(err, acs.ErrParameters) {
		t.Errorf("a long name: got %v, want ErrParameters", err)
	}
}

// TestReadHead checks what is known of a request before its body is read.
func TestReadHead(t *testing.T) {
	for query, want := range map[string]acs.Head{
		rpcQuery:                        {Protocol: "RPC-1.0", AccessKeyId: "a", Action: "ListKeys"},
		"Action=A&AccessKeyId=%61%2B+b": {Protocol: "RPC-1.0", AccessKeyId: "a+ b", Action: "A"},
		"AccessKeyId=a&AccessKeyId=b":   {Protocol: "RPC-1.0", AccessKeyId: "a"},
		"xAccessKeyId=a&AccessKeyId=b":  {Protocol: "RPC-1.0", AccessKeyId: "b"},
		"AccessKeyIdAccessKeyId=a":      {},
		"xAccessKeyId=AccessKeyId=b":    {},
		"a=AccessKeyId=b":               {},
		"%41ccessKeyId=a":               {}, // found when the parameters are split
		"AccessKeyId=%zz&a=%zz":         {},
		"AccessKeyId":                   {},
		"Action=ListKeys":               {Action: "ListKeys"},
		"":                              {},
	} {
		h, err := acs.ReadHead(rpcRequest(query))
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if h.Protocol != want.Protocol || h.AccessKeyId != want.AccessKeyId || h.Action != want.Action || h.Time != nil {
			t.Errorf("%s: got %+v, want %+v", query, h, want)
		}
		form, err := acs.ReadHead(rpcRequest(""))
		if err != nil {
			t.Fatal(err)
		}
		if form.Scan(query); form.Protocol != want.Protocol || form.AccessKeyId != want.AccessKeyId || form.Action != want.Action {
			t.Errorf("%s in the form: got %+v, want %+v", query, form, want)
		}
	}
}

// TestManyHeaders sends signatures that cover more headers than any client sends.
func TestManyHeaders(t *testing.T) {
	send := func(n int) error {
		r := rpcRequest("")
		r.Header = http.Header{"X-Acs-Action": {"ListKeys"}, "X-Acs-Version": {"2016-01-20"}, "X-Acs-Date": {"2026-11-21T20:56:37Z"},
			"X-Acs-Signature-Nonce": {"n"}, "X-Acs-Content-Sha256": {"e3b0"}}
		for i := range n - len(r.Header) {
			r.Header.Set(fmt.Sprintf("X-More-%d", i), "x")
		}
		var names []string
		for name := range r.Header {
			names = append(names, strings.ToLower(name))
		}
		r.Header.Set("Authorization", fmt.Sprintf("ACS3-HMAC-SHA256 Credential=a,SignedHeaders=%s,Signature=%s",
			strings.Join(names, ";"), strings.Repeat("ab", 32)))
		h, err := acs.ReadHead(r)
		if err == nil && (h.AccessKeyId != "a" || h.Action != "ListKeys" || h.Time == nil) {
			t.Errorf("%d signed headers: got %+v, want the access key a, ListKeys and a time", n, h)
		}
		return err
	}
	if err := send(64); err != nil {
		t.Errorf("64 signed headers: got %v, want nil", err)
	}
	if err := send(65); !errors.Is(err, acs.ErrIncomplete) {
		t.Errorf("65 signed headers: got %v, want ErrIncomplete", err)
	}
	tooMany := http.Header{}
	for i := range 65 {
		tooMany.Set(fmt.Sprintf("X-Kms-%d", i), "x")
	}
	r := rpcRequest("")
	r.Header = tooMany
	if _, err := acs.ParseNative(r); !errors.As(err, new(*acs.ParamError)) {
		t.Errorf("65 headers of the native API: got %v, want a ParamError", err)
	}
	r = rpcRequest(rpcQuery, "application/x-www-form-urlencoded"+strings.Repeat("; a=b", 10_000))
	if _, err := acs.Parse(r, "KeyId=1"); !errors.Is(err, acs.ErrParameters) {
		t.Errorf("a Content-Type of 50 KB: got %v, want ErrParameters", err)
	}
}
