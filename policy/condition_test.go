package policy_test

import (
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/policy"
)

const noValue = "\x00" // marks a request without a value for the key

// TestOperators lists values of the document for each operator, with request values that match and
// that do not. The negated operator must return the opposite for the same values.
func TestOperators(t *testing.T) {
	numbers := []string{"x", "", "1e2", "0x1", "+1", " 1", "1.", ".5", "1_0", "NaN", "١", "1/3", "0b1", "-", "--1",
		// Evaluating these would take gigabytes.
		"1e999999999", "1E999999999", "-1e999999999", "1e-999999999", "0.1e999999999", "0x1p999999999", "1p999999999",
		"1/1e999999999", strings.Repeat("9", policy.MaxDocument+1)}
	dates := []string{"", "2026-01-02", "1767312000", "2026-01-02T00:00:00", "2026-01-02t00:00:00z",
		"2026-01-02T24:00:00Z", "2026-01-02T0:00:00Z", "2026-13-02T00:00:00Z", "2026-01-02T00:00:00,0Z",
		"2026-01-02T00:00:00+24:00", "2026-01-02T00:00:60Z"}
	for _, c := range []struct {
		operator, negated, key, values string
		hit, miss                      []string
	}{
		{"StringEquals", "StringNotEquals", "kms:tag/a", `["x","Y*"]`, []string{"x", "Y*"},
			[]string{"X", "y*", "Yz", "", "xx", "x "}},
		{"StringEquals", "StringNotEquals", "kms:tag/a", `""`, []string{""}, []string{"x"}},
		{"StringEquals", "StringNotEquals", "acs:SourceIp", `"10.0.0.1"`, []string{"10.0.0.1"}, []string{"10.0.0.2"}},
		{"StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", "kms:tag/a", `["x","É"]`, []string{"x", "X", "é", "É"},
			[]string{"", "xx", "e"}},
		{"StringLike", "StringNotLike", "kms:tag/a", `["a*b","?世","c**d?","*??y*"]`,
			[]string{"ab", "a\nb", "aabb", "世世", "é世", "cxxdd", "世世yz"},
			[]string{"", "a", "abA", "Ab", "世", "xx世", "cd", "世yz", "yy世"}},
		{"StringLike", "StringNotLike", "acs:SourceIp", `"10.*"`, []string{"10.0.0.1"}, []string{"110.0.0.1"}},
		{"NumericEquals", "NumericNotEquals", "kms:tag/n", `[1,"-02.50",0]`,
			[]string{"1", "1.0", "01", "-2.5", "-0", "0.00"}, append(numbers, "-1", "2.5", "10", "0.1")},
		{"NumericLessThan", "", "kms:tag/n", `10.5`, []string{"10.49", "9", "-11", "0", "10"},
			append(numbers, "10.5", "10.50", "10.500001", "11", "100")},
		{"NumericLessThan", "", "kms:tag/n", `-10.5`, []string{"-10.6", "-11", "-100"},
			append(numbers, "-10.5", "-10.4", "-9", "0", "10.6")},
		{"NumericLessThanEquals", "", "kms:tag/n", `"10.5"`, []string{"10.5", "10.50", "10.4"},
			append(numbers, "10.51", "11")},
		{"NumericGreaterThan", "", "kms:tag/n", `["10.5",20]`,
			[]string{"10.51", "11", "100", strings.Repeat("9", 5000)}, append(numbers, "10.5", "9.9", "-11")},
		{"NumericEquals", "NumericNotEquals", "kms:tag/n", `"0.` + strings.Repeat("0", 5000) + `1"`,
			[]string{"0." + strings.Repeat("0", 5000) + "1000"},
			append(numbers, "0", "0."+strings.Repeat("0", 5000)+"2", "0."+strings.Repeat("0", 4999)+"1")},
		{"NumericLessThan", "", "kms:tag/n", `"` + strings.Repeat("9", 5000) + `"`,
			[]string{strings.Repeat("9", 4999), "00" + strings.Repeat("9", 4999) + "8.9", "-" + strings.Repeat("9", 6000)},
			append(numbers, strings.Repeat("9", 5000), "1"+strings.Repeat("0", 5000))},
		{"NumericGreaterThanEquals", "", "kms:tag/n", `0.001`, []string{"0.001", "0.0010", "0.01", "1"},
			append(numbers, "0.0009", "0", "-1")},
		{"DateEquals", "DateNotEquals", "acs:CurrentTime", `["2026-01-02T00:00:00Z"]`,
			[]string{"2026-01-02T00:00:00Z", "2026-01-02T08:00:00+08:00", "2026-01-02T00:00:00.000Z"},
			append(dates, "2026-01-02T00:00:01Z", "2026-01-02T00:00:00+08:00")},
		{"DateLessThan", "", "acs:CurrentTime", `"2026-01-02T08:00:00+08:00"`,
			[]string{"2026-01-01T23:59:59Z", "2026-01-01T23:59:59.9Z"},
			append(dates, "2026-01-02T00:00:00Z", "2027-01-01T00:00:00Z")},
		{"DateLessThanEquals", "", "acs:CurrentTime", `"2026-01-02T00:00:00Z"`,
			[]string{"2026-01-02T00:00:00Z", "2025-01-01T00:00:00Z"}, append(dates, "2026-01-02T00:00:00.1Z")},
		{"DateGreaterThan", "", "acs:CurrentTime", `"2026-01-02T00:00:00Z"`, []string{"2026-01-02T00:00:01Z"},
			append(dates, "2026-01-02T00:00:00Z", "2025-01-01T00:00:00Z")},
		{"DateGreaterThanEquals", "", "acs:CurrentTime", `"2026-01-02T00:00:00Z"`,
			[]string{"2026-01-02T00:00:00Z", "2026-01-02T00:00:01Z"}, append(dates, "2026-01-01T23:59:59Z")},
		{"DateGreaterThan", "", "kms:tag/since", `"2026-01-02T00:00:00Z"`, []string{"2026-01-02T00:00:01Z"},
			[]string{"soon"}},
		{"Bool", "", "acs:MFAPresent", `"true"`, []string{"true"}, []string{"false", "True", "1", ""}},
		{"Bool", "", "acs:SecureTransport", `[false]`, []string{"false"}, []string{"true", "FALSE", "0", ""}},
		{"Bool", "", "acs:SecureTransport", `[false,"true"]`, []string{"false", "true"}, []string{"", "no"}},
		{"IpAddress", "NotIpAddress", "acs:SourceIp", `["10.0.0.0/8","192.0.2.7","2001:db8::/32"]`,
			[]string{"10.255.0.1", "192.0.2.7", "::ffff:10.1.2.3", "2001:db8::5"},
			[]string{"11.0.0.1", "192.0.2.8", "::10.0.0.1", "2001:db9::1", "fe80::1%eth0", "2001:db8::5%eth0",
				"10.0.0.1:80", "010.0.0.1", "", "localhost"}},
		{"IpAddress", "NotIpAddress", "acs:SourceIp", `["::ffff:10.0.0.0/104","::ffff:192.0.2.7"]`,
			[]string{"10.255.0.1", "::ffff:10.0.0.1", "192.0.2.7"}, []string{"11.0.0.1", "::1"}},
		{"IpAddress", "NotIpAddress", "acs:SourceIp", `"10.9.9.9/8"`, []string{"10.0.0.1"}, []string{"11.0.0.1"}},
		{"IpAddress", "NotIpAddress", "acs:SourceIp", `"0.0.0.0/0"`, []string{"10.0.0.1", "::ffff:1.1.1.1"},
			[]string{"::1"}},
		{"IpAddress", "NotIpAddress", "acs:SourceIp", `"::/0"`, []string{"::1", "2001:db8::1"},
			[]string{"10.0.0.1", "::ffff:10.0.0.1"}},
	} {
		checkCondition(t, c.operator, c.key, c.values, c.hit, true)
		checkCondition(t, c.operator, c.key, c.values, append(c.miss, noValue), false)
		if c.negated != "" {
			checkCondition(t, c.negated, c.key, c.values, c.hit, false)
			checkCondition(t, c.negated, c.key, c.values, append(c.miss, noValue), true)
		}
	}
}

// checkCondition checks that a condition holds, or does not hold, for each of several request
// values.
func checkCondition(t *testing.T, operator, key, operands string, tried []string, want bool) {
	t.Helper()
	condition := `"Condition":{"` + operator + `":{"` + key + `":` + operands + `}}}`
	allow := parse(t, document(`{"Effect":"Allow","Action":"*","Resource":"*",`+condition))
	deny := parse(t, document(`{"Effect":"Allow","Action":"*","Resource":"*"}`,
		`{"Effect":"Deny","Action":"*","Resource":"*",`+condition))
	for _, value := range tried {
		all := values{key: value, "acs:other": "x"}
		if value == noValue {
			delete(all, key)
		}
		r := policy.Request{Action: "kms:x", Resource: key1, Values: all}
		if got := policy.Decide([]policy.Named{allow}, r); got.Allowed != want {
			t.Errorf("Allow if %s %s %s, value %q: got %+v, want Allowed %v", operator, key, operands, value, got, want)
		}
		if got := policy.Decide([]policy.Named{deny}, r); got.Allowed == want {
			t.Errorf("Deny if %s %s %s, value %q: got %+v, want Allowed %v", operator, key, operands, value, got, !want)
		}
	}
}

func TestConditionsAreAnded(t *testing.T) {
	p := parse(t, document(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":{
		"StringEquals":{"kms:tag/a":["1","2"],"kms:tag/A":"3"},"StringNotEquals":{"kms:tag/a":"2","kms:tag/b":["4","5"]}}}`))
	for _, c := range []struct {
		values map[string]string
		want   bool
	}{
		{map[string]string{"kms:tag/a": "1", "kms:tag/A": "3"}, true},
		{map[string]string{"kms:tag/a": "1", "kms:tag/A": "3", "kms:tag/b": "6"}, true},
		{map[string]string{"kms:tag/a": "1", "kms:tag/A": "3", "kms:tag/b": "5"}, false},
		{map[string]string{"kms:tag/a": "2", "kms:tag/A": "3"}, false},
		{map[string]string{"kms:tag/a": "1", "kms:tag/A": "1"}, false},
		{map[string]string{"kms:tag/a": "1"}, false},
		{nil, false},
	} {
		r := policy.Request{Action: "kms:x", Resource: key1, Values: values(c.values)}
		if got := policy.Decide([]policy.Named{p}, r); got.Allowed != c.want {
			t.Errorf("%v: got %+v, want Allowed %v", c.values, got, c.want)
		}
	}
}

func TestConditionsRefused(t *testing.T) {
	huge := strings.Repeat("9", 500)
	for condition, want := range map[string]string{
		`{}`:                              "Condition: line 1, column 87: the Condition has no operator",
		`[]`:                              "expected an object",
		`null`:                            "expected an object",
		`{"Bool":{}}`:                     "Bool has no condition key",
		`{"Bool":[]}`:                     "Condition: Bool: line 1, column 94: expected an object",
		`{"Bool":"true"}`:                 "expected an object",
		`{"bool":{}}`:                     `line 1, column 87: "bool" must be spelled "Bool"`,
		`{"IPAddress":{}}`:                `"IPAddress" must be spelled "IpAddress"`,
		`{"StringEqualsIfExists":{}}`:     `unsupported condition operator "StringEqualsIfExists"`,
		`{"Null":{"kms:tag/a":"true"}}`:   "unsupported condition operator",
		`{"ForAnyValue:StringEquals":{}}`: "unsupported condition operator",
		`{"Bool":{"acs:MFAPresent":"true"},"Bool":{"acs:MFAPresent":"false"}}`:     `line 1, column 120: "Bool" occurs twice`,
		`{"Bool":{"acs:MFAPresent":"true","acs:MFAPresent":"false"}}`:              `line 1, column 119: "acs:MFAPresent" occurs twice`,
		`{"Bool":{"acs:mfapresent":"true"}}`:                                       `"acs:mfapresent" must be spelled "acs:MFAPresent"`,
		`{"IpAddress":{"acs:SourceIP":"10.0.0.1"}}`:                                `line 1, column 100: "acs:SourceIP" must be spelled "acs:SourceIp"`,
		`{"StringEquals":{"acs:SourceVpc":"x"}}`:                                   "unsupported condition key",
		`{"StringEquals":{"":"x"}}`:                                                "unsupported condition key",
		`{"StringEquals":{"kms:tag/":"x"}}`:                                        "unsupported condition key",
		`{"StringEquals":{"kms:tag":"x"}}`:                                         "unsupported condition key",
		`{"StringEquals":{"kms:Tag/a":"x"}}`:                                       "unsupported condition key",
		`{"StringEquals":{"kms:tag/a":[]}}`:                                        `StringEquals: "kms:tag/a": line 1, column 115: the list is empty`,
		`{"StringEquals":{"kms:tag/a":null}}`:                                      "expected a string",
		`{"StringEquals":{"kms:tag/a":{}}}`:                                        "expected a string",
		`{"StringEquals":{"kms:tag/a":[["x"]]}}`:                                   "expected a string",
		`{"StringEquals":{"kms:tag/a":1}}`:                                         "expected a string",
		`{"StringEquals":{"kms:tag/a":true}}`:                                      "expected a string",
		`{"StringEquals":{"kms:tag/a":"\ud800"}}`:                                  "an unpaired surrogate",
		`{"StringEquals":{"kms:tag/\ud800":"a"}}`:                                  "an unpaired surrogate",
		`{"NumericEquals":{"kms:tag/a":"1e999999999"}}`:                            "not a decimal number",
		`{"NumericEquals":{"kms:tag/a":1e999999999}}`:                              `"1e999999999" is not a decimal number`,
		`{"NumericEquals":{"kms:tag/a":1E-999999999}}`:                             "not a decimal number",
		`{"NumericEquals":{"kms:tag/a":"0x1p999999999"}}`:                          "not a decimal number",
		`{"NumericEquals":{"kms:tag/a":"1/3"}}`:                                    "not a decimal number",
		`{"NumericEquals":{"kms:tag/a":["1","x"]}}`:                                `line 1, column 121: "x" is not a decimal number`,
		`{"NumericEquals":{"kms:tag/a":true}}`:                                     "expected a string",
		`{"NumericEquals":{"kms:tag/a":""}}`:                                       "not a decimal number",
		`{"NumericEquals":{"kms:tag/a":"` + huge + `x"}}`:                          "not a decimal number",
		`{"NumericEquals":{"acs:CurrentTime":1}}`:                                  "cannot compare",
		`{"NumericNotEquals":{"acs:SourceIp":1}}`:                                  "cannot compare",
		`{"Bool":{"acs:SourceIp":"true"}}`:                                         "cannot compare",
		`{"DateEquals":{"acs:MFAPresent":"2026-01-02T00:00:00Z"}}`:                 "cannot compare",
		`{"IpAddress":{"acs:CurrentTime":"10.0.0.1"}}`:                             "cannot compare",
		`{"Bool":{"acs:MFAPresent":"True"}}`:                                       `neither "true" nor "false"`,
		`{"Bool":{"acs:MFAPresent":1}}`:                                            "expected a string",
		`{"DateLessThan":{"acs:CurrentTime":"2026-01-02"}}`:                        "not a time",
		`{"DateLessThan":{"acs:CurrentTime":"2026-02-30T00:00:00Z"}}`:              "not a time",
		`{"DateLessThan":{"acs:CurrentTime":1767312000}}`:                          "expected a string",
		`{"IpAddress":{"acs:SourceIp":"10.0.0.0/33"}}`:                             "neither an IP address",
		`{"IpAddress":{"acs:SourceIp":"10.0.0"}}`:                                  "neither an IP address",
		`{"IpAddress":{"acs:SourceIp":"10.0.0.*"}}`:                                "neither an IP address",
		`{"IpAddress":{"acs:SourceIp":"fe80::1%eth0"}}`:                            "neither an IP address",
		`{"IpAddress":{"acs:SourceIp":"fe80::%eth0/64"}}`:                          "neither an IP address",
		`{"IpAddress":{"acs:SourceIp":"::ffff:0.0.0.0/95"}}`:                       "shorter than 96 bits",
		`{"IpAddress":{"acs:SourceIp":"10.0.0.0/255.0.0.0"}}`:                      "neither an IP address",
		`{"IpAddress":{"acs:SourceIp":[]},"Bool":{"acs:MFAPresent":"true"}}`:       "the list is empty",
		`{"IpAddress":{"acs:SourceIp":["10.0.0.1"]},"Bool":{}}`:                    "Bool has no condition key",
		`{"IpAddress":{"acs:SourceIp":["10.0.0.1"]},"Bool":{"acs:MFAPresent":[]}}`: "the list is empty",
	} {
		for _, effect := range []string{"Deny", "Allow"} {
			statement := `{"Effect":"` + effect + `","Action":"*","Resource":"*","Condition":` + condition + `}`
			_, err := policy.Parse(document(statement))
			if err == nil || effect == "Deny" && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %s", condition, err, want)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "statement 1: Condition: ") {
				t.Errorf("%s: got %v, want the prefix \"statement 1: Condition: \"", condition, err)
			}
			checkResult(t, nil, err)
		}
	}
}
