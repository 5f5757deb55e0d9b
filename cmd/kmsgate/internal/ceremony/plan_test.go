package ceremony

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestPlanMistakes: each mistake in a plan is named.
func TestPlanMistakes(t *testing.T) {
	correct := fmt.Sprintf(planText, 1)
	if _, err := ParsePlan([]byte(correct)); err != nil {
		t.Fatal(err)
	}
	for want, plan := range map[string]string{
		"it is empty":                             "",
		"title is missing":                        strings.Replace(correct, "title: Ceremony 1", "", 1),
		"operators is missing":                    strings.Replace(correct, "[Ada, Grace]", "[]", 1),
		"operators has a name that is empty":      strings.Replace(correct, "Grace", "' '", 1),
		"it is not UTF-8":                         "\xff\xfe" + "t\x00",
		"line 8: a value is missing":              strings.Replace(correct, "protect: true", "protect: ", 1),
		"line 8: a document is empty":             strings.Replace(correct, "protect: true", "policy: ''", 1),
		"YAML tags are not supported":             strings.Replace(correct, "Ceremony 1", "!!binary /w==", 1),
		"YAML aliases are not supported":          strings.Replace(correct, "[Ada, Grace]", "[&x Ada, *x]", 1),
		"title has a control character":           strings.Replace(correct, "Ceremony 1", `"a\x07"`, 1),
		"there is nothing to create":              "title: x\noperators: [x]\n",
		"it has more than 64 KiB":                 correct + "# " + strings.Repeat("x", MaxPlan),
		"something follows the first YAML":        correct + "---\ntitle: x\n",
		"line 8: there is no field specc":         strings.Replace(correct, "spec:", "specc:", 1),
		"line 2: the value `Ada` is of the wrong": strings.Replace(correct, "[Ada, Grace]", "Ada", 1),
		`policy "p1" is there twice`:              strings.Replace(correct, "policies:\n", "policies:\n  - {name: p1, document: '{}'}\n", 1),
		`policy "" has no document`:               strings.Replace(correct, "policies:\n", "policies:\n  - {}\n", 1),
		"a policy has no name":                    strings.Replace(correct, "policies:\n", "policies:\n  - {document: '{}'}\n", 1),
		"a user has no name":                      strings.Replace(correct, "users:\n", "users:\n  - {}\n", 1),
		`user "u1" is there twice`:                strings.Replace(correct, "users:\n", "users:\n  - {name: u1}\n", 1),
		`user "u1" has policy "p1" twice`:         strings.Replace(correct, "[p1,", "[p1, p1,", 1),
		`key "k1": 400 InvalidParameter`:          strings.Replace(correct, "alias: alias/k1", "alias: k1", 1),
		`alias "alias/acs/a1": 400 Invalid`:       strings.Replace(correct, "alias/a1", "alias/acs/a1", 1),
		"alias/k1 is there twice":                 strings.Replace(correct, "name: alias/a1", "name: alias/k1", 1),
		`key "alias/k1": spec "RSA" is not one`:   strings.Replace(correct, "EC_P256", "RSA", 1),
		`alias "alias/a1" names no key`:           strings.Replace(correct, ", key: alias/k1", "", 1),
		"the document cannot be JSON":             strings.Replace(correct, "Effect: Allow", "1: Allow", 1),
		"it has 101 keys":                         strings.Replace(correct, "keys:\n", "keys:\n"+keys(MaxKeys), 1),
		"mapping values are not allowed":          "title: a: b",
	} {
		if _, err := ParsePlan([]byte(plan)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// keys returns the lines of some keys of a plan.
func keys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  - {alias: alias/more%d, spec: EC_P256}\n", i)
	}
	return b.String()
}

// FuzzParsePlan checks that every plan that parses has steps, and is the same in a transcript.
func FuzzParsePlan(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(planText, 1)))
	f.Add([]byte("\xff\xfet\x00i\x00"))
	f.Add([]byte("title: x\noperators: [x]\nkeys: [{alias: alias/x, spec: EC_SM2, policy: '{}'}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePlan(text)
		if err != nil {
			return
		}
		if steps, err := p.steps(); err != nil || len(steps) == 0 {
			t.Errorf("got %d steps, %v", len(steps), err)
		}
		transcript := Transcript{Format: transcriptFormat, Title: p.Title, Operators: p.Operators, Plan: string(text)}
		encoded, err := transcript.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeTranscript(encoded); err != nil || back.Plan != string(text) || back.Title != p.Title || !slices.Equal(back.Operators, p.Operators) {
			t.Errorf("the transcript has %+v, %v", back, err)
		}
	})
}
