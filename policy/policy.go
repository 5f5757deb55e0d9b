// Package policy evaluates RAM policy documents.
//
// It guarantees three things. What no statement allows is denied. A matching
// Deny wins over every Allow. A document that contains anything this package
// does not evaluate is refused by [Parse], so no part of a policy is ever
// silently without effect. Deciding is pure and total, and takes time bounded
// by the product of the sizes of document and request.
//
// The grammar is that of RAM's "Policy structure and syntax", without
// Condition blocks: a document with one is refused.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxDocument is the most bytes a document may have.
const MaxDocument = 32 << 10

// A Policy is a parsed document. It does not change.
type Policy struct {
	statements []statement
}

type statement struct {
	deny      bool
	actions   []string
	resources []string
}

// A Request is what is asked for: Action is "kms:" and the operation's name,
// Resource an ARN.
type Request struct {
	Action   string
	Resource string
}

// A Decision says whether a request is allowed. Reason is for the audit log; it
// tells more than a caller should learn.
type Decision struct {
	Allowed bool
	Reason  string
}

// Parse parses a document of at most MaxDocument bytes. Its errors say what is
// wrong and where.
func Parse(document string) (*Policy, error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("the policy has %d bytes, more than %d", len(document), MaxDocument)
	}
	var doc struct {
		Version   string
		Statement []struct {
			Effect   string
			Action   oneOrMany
			Resource oneOrMany
		}
	}
	if err := decodeStrictly(document, &doc); err != nil {
		return nil, err
	}
	if doc.Version != "1" {
		return nil, fmt.Errorf(`the policy's Version is %q, not "1"`, doc.Version)
	}
	if len(doc.Statement) == 0 {
		return nil, errors.New("the policy has no Statement")
	}
	p := new(Policy)
	for i, s := range doc.Statement {
		if s.Effect != "Allow" && s.Effect != "Deny" {
			return nil, fmt.Errorf(`statement %d: Effect is %q, not "Allow" or "Deny"`, i+1, s.Effect)
		}
		if len(s.Action) == 0 || len(s.Resource) == 0 {
			return nil, fmt.Errorf("statement %d: it needs an Action and a Resource", i+1)
		}
		p.statements = append(p.statements, statement{s.Effect == "Deny", s.Action, s.Resource})
	}
	return p, nil
}

// decodeStrictly decodes one JSON document in which every member is known and is
// there once.
func decodeStrictly(document string, into any) error {
	if err := checkMembers(document); err != nil {
		return err
	}
	d := json.NewDecoder(strings.NewReader(document))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("the policy at byte %d: %w", d.InputOffset(), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the policy at byte %d: something follows the document", d.InputOffset())
	}
	return nil
}

// checkMembers refuses an object that names a member twice or in another case:
// encoding/json would take the last one, and merge what it holds.
func checkMembers(document string) error {
	d := json.NewDecoder(strings.NewReader(document))
	var open []map[string]bool // the members seen of each object that is open, nil for an array
	for name := false; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the policy at byte %d: %w", d.InputOffset(), err)
		}
		switch token := token.(type) {
		case json.Delim:
			switch token {
			case '{':
				open = append(open, make(map[string]bool))
			case '[':
				open = append(open, nil)
			default:
				open = open[:len(open)-1]
			}
			name = len(open) > 0 && open[len(open)-1] != nil
			continue
		case string:
			if !name {
				break
			}
			members := open[len(open)-1]
			folded := strings.ToLower(token)
			if spelled, known := memberNames[folded]; members[folded] || known && spelled != token {
				return fmt.Errorf("the policy at byte %d: the member %.40q is there twice or in another case", d.InputOffset(), token)
			}
			members[folded] = true
			name = false
			continue
		}
		name = len(open) > 0 && open[len(open)-1] != nil
	}
}

// memberNames are how members are spelled, by their lower case.
var memberNames = map[string]string{"version": "Version", "statement": "Statement", "sid": "Sid", "effect": "Effect", "principal": "Principal",
	"ram": "RAM", "action": "Action", "resource": "Resource", "condition": "Condition"}

// oneOrMany is a string or an array of strings, none of them empty.
type oneOrMany []string

func (o *oneOrMany) UnmarshalJSON(data []byte) error {
	var many []string
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte{'"'}) {
		many = make([]string, 1)
		if err := json.Unmarshal(data, &many[0]); err != nil {
			return err
		}
	} else if err := json.Unmarshal(data, &many); err != nil {
		return err
	}
	for _, s := range many {
		if s == "" {
			return errors.New("an empty string matches nothing")
		}
	}
	*o = many
	return nil
}

// Decide evaluates a request against all of a caller's policies.
func Decide(policies []*Policy, r Request) Decision {
	allowed := ""
	for i, p := range policies {
		for j, s := range p.statements {
			if !s.matches(r) {
				continue
			}
			where := fmt.Sprintf("statement %d of policy %d", j+1, i+1)
			if s.deny {
				return Decision{false, "denied by " + where}
			}
			if allowed == "" {
				allowed = "allowed by " + where
			}
		}
	}
	if allowed == "" {
		return Decision{false, "no statement allows it"}
	}
	return Decision{true, allowed}
}

func (s statement) matches(r Request) bool {
	// RAM compares actions without regard to case, resources with it.
	return anyMatch(s.actions, r.Action, strings.ToLower) && anyMatch(s.resources, r.Resource, func(s string) string { return s })
}

func anyMatch(patterns []string, s string, fold func(string) string) bool {
	for _, p := range patterns {
		if match(fold(p), fold(s)) {
			return true
		}
	}
	return false
}

// match reports whether s matches a pattern in which * stands for any number of
// bytes and ? for one. It goes back to the last * only, which is enough, and
// keeps it from taking exponential time.
func match(pattern, s string) bool {
	p, i := 0, 0
	star, from := -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
