package policy_test

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/policy"
)

// A naiveVerdict is the naive evaluator's decision, with the index of the deciding policy and
// statement, or -1 if none decided.
type naiveVerdict struct {
	allowed           bool
	policy, statement int
}

// naiveDecide evaluates documents directly by the definition. It works on generic JSON with regular
// expressions, package math/big and package net, and shares no code with package policy.
func naiveDecide(documents []string, r policy.Request) naiveVerdict {
	first := map[string]naiveVerdict{}
	for i, document := range documents {
		d := json.NewDecoder(strings.NewReader(document))
		d.UseNumber()
		var doc map[string]any
		if err := d.Decode(&doc); err != nil {
			panic(err)
		}
		for j, s := range doc["Statement"].([]any) {
			s := s.(map[string]any)
			effect := s["Effect"].(string)
			if _, found := first[effect]; !found && naiveApplies(s, r) {
				first[effect] = naiveVerdict{effect == "Allow", i, j}
			}
		}
	}
	for _, effect := range []string{"Deny", "Allow"} {
		if v, found := first[effect]; found {
			return v
		}
	}
	return naiveVerdict{false, -1, -1}
}

func naiveApplies(s map[string]any, r policy.Request) bool {
	includes := func(arn string) bool {
		account, all := strings.CutSuffix(arn, "*")
		return arn == r.Principal || all && regexp.MustCompile("^"+account+"(user|role)/").MatchString(r.Principal)
	}
	if principal, ok := s["Principal"].(map[string]any); ok &&
		!slices.ContainsFunc(naiveList(principal["RAM"]), includes) {
		return false
	}
	if !slices.ContainsFunc(naiveList(s["Action"]), func(p string) bool { return naiveLike("(?i)", p, r.Action) }) ||
		!slices.ContainsFunc(naiveList(s["Resource"]), func(p string) bool { return naiveLike("", p, r.Resource) }) {
		return false
	}
	condition, _ := s["Condition"].(map[string]any)
	for operator, keys := range condition {
		positive := strings.Replace(operator, "Not", "", 1)
		for key, operands := range keys.(map[string]any) {
			value, ok := r.Value(key)
			holds := ok && slices.ContainsFunc(naiveList(operands), func(operand string) bool {
				return naiveCompare(positive, operand, value)
			})
			if holds == (operator != positive) {
				return false
			}
		}
	}
	return true
}

func naiveList(v any) (list []string) {
	if values, ok := v.([]any); ok {
		for _, v := range values {
			list = append(list, fmt.Sprint(v))
		}
		return list
	}
	return []string{fmt.Sprint(v)}
}

// naiveLike matches s against a pattern with * and ?. The flag s makes a dot match a newline, too.
func naiveLike(flags, pattern, s string) bool {
	e := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile(flags + "(?s)^" + e + "$").MatchString(s)
}

func naiveCompare(operator, operand, value string) bool {
	switch operator {
	case "StringEquals", "Bool":
		return operand == value
	case "StringEqualsIgnoreCase":
		return regexp.MustCompile("(?i)^" + regexp.QuoteMeta(operand) + "$").MatchString(value)
	case "StringLike":
		return naiveLike("", operand, value)
	case "IpAddress":
		if !strings.Contains(operand, "/") {
			return net.ParseIP(value) != nil && net.ParseIP(operand).Equal(net.ParseIP(value))
		}
		_, network, err := net.ParseCIDR(operand)
		return err == nil && network.Contains(net.ParseIP(value))
	}
	if relation, ok := strings.CutPrefix(operator, "Date"); ok {
		a, err := time.Parse(time.RFC3339, value)
		b, _ := time.Parse(time.RFC3339, operand)
		return err == nil && naiveRelation(relation, int(a.Sub(b)/time.Second))
	}
	a, ok := new(big.Rat).SetString(value)
	b, _ := new(big.Rat).SetString(operand)
	return ok && naiveRelation(strings.TrimPrefix(operator, "Numeric"), a.Cmp(b))
}

func naiveRelation(relation string, order int) bool {
	return relation == "Equals" && order == 0 ||
		strings.HasPrefix(relation, "LessThan") && order < 0 || strings.HasPrefix(relation, "GreaterThan") &&
		order > 0 ||
		strings.HasSuffix(relation, "ThanEquals") && order == 0
}

// checkNaive compares package policy with the naive evaluator on documents and a request made from
// d. It returns the naive verdict.
func checkNaive(t *testing.T, d *dice) naiveVerdict {
	t.Helper()
	var documents []string
	var policies []policy.Named
	for i := range 1 + d.roll(3) {
		keyPolicy := d.roll(3) == 0
		document := d.document(keyPolicy)
		p, err := policy.Parse(document)
		if keyPolicy {
			p, err = policy.ParseKeyPolicy(document)
		}
		if err != nil {
			t.Fatalf("%v: %s", err, document)
		}
		documents = append(documents, document)
		policies = append(policies, policy.Named{Name: fmt.Sprint("p", i), Policy: p})
	}
	r := d.request()
	want := naiveDecide(documents, r)
	wantDecision := policy.Decision{Allowed: want.allowed, Statement: want.statement + 1}
	if want.policy >= 0 {
		wantDecision.Policy = fmt.Sprint("p", want.policy)
	}
	got := policy.Decide(policies, r)
	wantDecision.Cause, wantDecision.Sid = got.Cause, got.Sid // TestDecision checks the reasons
	if got != wantDecision {
		t.Fatalf("got %+v, want %+v\nrequest %+v\n%s", got, wantDecision, r, strings.Join(documents, "\n"))
	}
	return want
}
