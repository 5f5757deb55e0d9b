// Package policy evaluates RAM policies, which are attached to users, and key policies, which are
// set for one key.
//
// It guarantees:
//
//   - A request that no statement allows is denied.
//   - A denying statement overrides every allowing one, across all policies.
//   - No part of a policy is silently ignored. [Parse] and [ParseKeyPolicy] refuse a document with
//     anything that this package does not evaluate: an element, condition operator or condition key
//     that is unknown, occurs twice or is spelled in another case; a value that its operator cannot
//     parse; or an operator that cannot compare the values of its key.
//   - Deciding has no side effects and always returns a decision. Everything is parsed beforehand,
//     so the number of steps is at most the product of the sizes of the documents and the request.
//
// The grammar follows RAM's "Policy structure and syntax" and "Policy elements", but NotAction and
// NotResource are refused, and KMS's "Configure a key policy". Where these pages are silent, this
// package has the following rules:
//
//   - A statement of a RAM policy has no Sid, because RAM's grammar has none.
//   - Actions are compared without regard to case. Everything else is case-sensitive: resources,
//     principals, tag keys and the values of all condition operators without IgnoreCase in their
//     names.
//   - * matches any number of characters, and ? matches one character, which may have several
//     bytes. In the values of operators other than StringLike and StringNotLike both are ordinary
//     characters. There is no way to escape them.
//   - An operator does not hold for a key without a value. An operator with Not in its name is
//     exactly the negation of the one without: it holds if none of its values match, including when
//     the key has no value or one that does not parse.
//   - Operators for numbers, dates, Booleans and addresses apply to keys of the same type and to
//     tags. Operators for strings apply to all keys and compare the request's value unchanged.
//   - An IPv4-mapped IPv6 address counts as the IPv4 address, so that no caller can evade a rule by
//     choosing the family of its socket. An IPv6 prefix, including ::/0, contains no IPv4 address.
//   - acs:ram::<account>:* means all users and roles of the account, but not its root. See
//     [ParseKeyPolicy].
package policy

import (
	"fmt"
	"slices"
	"strings"
)

// MaxDocument is the maximum size in bytes of a document of either kind.
const MaxDocument = 32 << 10

// A Policy is a parsed document. It does not change, and is safe for concurrent use.
type Policy struct {
	statements []statement
}

type statement struct {
	sid        string
	deny       bool
	principals []principal // nil in a RAM policy, which applies to the users it is attached to
	actions    []string    // in lower case
	resources  []string
	conditions []condition
}

// A Request describes what a caller asks for.
type Request struct {
	Action   string // "kms:" and the operation's name
	Resource string // an ARN

	// Principal is the caller's ARN, acs:ram::<account>:user/<name>. Only key policies use it.
	Principal string

	// Values are the values of the condition keys. If it is nil, no key has a value.
	Values Values
}

// Values are the values of condition keys. Most statements have no conditions, so a value is computed
// only when a statement needs it.
type Values interface {
	// Value returns the value of a condition key as documents spell it. ok is false if the key has no
	// value.
	//
	//   - "acs:SourceIp": an address
	//   - "acs:CurrentTime": a time like "2006-01-02T15:04:05Z"
	//   - "acs:SecureTransport" and "acs:MFAPresent": "true" or "false"
	//   - "kms:tag/<tag-key>": any string
	Value(key string) (value string, ok bool)
}

// Value returns the value of a condition key.
func (r *Request) Value(key string) (value string, ok bool) {
	if r.Values == nil {
		return "", false
	}
	return r.Values.Value(key)
}

// Named is a policy with the name that decisions use for it.
type Named struct {
	Name string
	*Policy
}

// A Decision is the result of [Decide].
type Decision struct {
	Allowed   bool
	Policy    string // the name of the policy that decided; "" if none did
	Statement int    // the number of the deciding statement, counted from 1; 0 if none decided
	Sid       string // of the deciding statement; may be empty
	Cause     string // the reason, if no statement decided
}

// Reason returns why the request is allowed or denied. It is for the audit log and reveals more than the
// caller may learn. It is computed on demand, because few callers need it.
func (d Decision) Reason() string {
	if d.Statement == 0 {
		return d.Cause
	}
	effect, sid := "denied", ""
	if d.Allowed {
		effect = "allowed"
	}
	if d.Sid != "" {
		sid = fmt.Sprintf(" (%q)", d.Sid)
	}
	return fmt.Sprintf("%s by statement %d%s of policy %q", effect, d.Statement, sid, d.Policy)
}

// Decide evaluates a request against all policies that apply to it: the caller's policies and the
// key policy. If several statements lead to the decision, it names the first.
func Decide(policies []Named, r Request) Decision {
	r.Action = strings.ToLower(r.Action) // a caller that passes it in lower case saves the copy
	allowed := Decision{Cause: "no statement allows it"}
	for _, p := range policies {
		if p.Policy == nil { // the document may have denied the request
			return Decision{Cause: fmt.Sprintf("policy %q was not parsed", p.Name), Policy: p.Name}
		}
		for i := range p.statements {
			s := &p.statements[i]
			if s.deny && s.applies(&r) {
				return decision(p, i)
			}
			if !allowed.Allowed && !s.deny && s.applies(&r) {
				allowed = decision(p, i)
			}
		}
	}
	return allowed
}

func decision(p Named, i int) Decision {
	s := &p.statements[i]
	return Decision{Allowed: !s.deny, Policy: p.Name, Statement: i + 1, Sid: s.sid}
}

// applies reports whether the statement applies to r. The Action of r must be in lower case.
func (s *statement) applies(r *Request) bool {
	includes := func(p principal) bool { return p.includes(r.Principal) }
	return (s.principals == nil || slices.ContainsFunc(s.principals, includes)) &&
		slices.ContainsFunc(s.actions, func(pattern string) bool { return match(pattern, r.Action) }) &&
		slices.ContainsFunc(s.resources, func(pattern string) bool { return match(pattern, r.Resource) }) &&
		!slices.ContainsFunc(s.conditions, func(c condition) bool { return !c.holds(r) })
}
