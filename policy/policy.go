// Package policy evaluates RAM policies, which are attached to users, and key
// policies, which are set for one key.
//
// It guarantees this. What no statement allows is denied. A statement that
// denies wins over every one that allows, in whichever policy either is. A
// document that holds anything this package does not evaluate is refused by
// [Parse] and [ParseKeyPolicy], so no part of a policy is ever silently without
// effect: not a member, a condition operator or a condition key that is unknown,
// is there twice or is spelled in another case, not a value that its operator
// can't read, not an operator that can't hold for its key. Deciding is pure and
// total. Everything is parsed beforehand, so that it takes at most as many steps
// as the product of the sizes of documents and request.
//
// The grammar is that of RAM's "Policy structure and syntax" and "Policy
// elements", of which NotAction and NotResource are refused, and KMS's
// "Configure a key policy". Where they are silent, it was decided thus:
//
//   - A statement of a RAM policy has no Sid: RAM's grammar knows none.
//   - Actions are compared without regard to case, all else with it: resources,
//     principals, tag keys and what the condition operators compare, but for
//     those that say IgnoreCase.
//   - * stands for any number of characters, and ? for one character, which may
//     be of several bytes. Both are characters like others in the values of
//     operators other than StringLike and StringNotLike; nothing escapes them.
//   - A key without a value meets no operator. An operator with Not in its name
//     is exactly the negation of the one without: none of its values may match,
//     and it holds when the key has no value, or one that does not parse.
//   - Operators for numbers, dates, Booleans and addresses go with keys of their
//     own type and with tags; those for strings go with all keys, and see the
//     value as the request has it.
//   - An IPv4 address that is mapped into IPv6 is taken for the IPv4 address, so
//     that no caller evades a rule by the family of its socket. An IPv6 prefix,
//     ::/0 included, contains no IPv4 address.
//   - acs:ram::<account>:* means all users and roles of the account, but not its
//     root: see [ParseKeyPolicy].
package policy

import (
	"fmt"
	"slices"
	"strings"
)

// MaxDocument is the most bytes that a document may have, of either kind.
const MaxDocument = 32 << 10

// A Policy is a parsed document. It does not change, and may be used by several
// goroutines at once.
type Policy struct {
	statements []statement
}

type statement struct {
	sid        string
	deny       bool
	principals []principal // nil in a RAM policy: it is for whom it is attached to
	actions    []string    // in lower case
	resources  []string
	conditions []condition
}

// A Request is what is asked for.
type Request struct {
	Action   string // "kms:" and the operation's name
	Resource string // an ARN

	// Principal is the caller's ARN, acs:ram::<account>:user/<name>. Only the
	// principals of key policies are compared with it.
	Principal string

	// Values has the values of condition keys, by the key as documents spell it:
	// "acs:SourceIp" an address, "acs:CurrentTime" a time like
	// "2006-01-02T15:04:05Z", "acs:SecureTransport" and "acs:MFAPresent" "true"
	// or "false", "kms:tag/<tag-key>" any string. A key that is not there has no
	// value.
	Values map[string]string
}

// Named is a policy and the name by which decisions refer to it.
type Named struct {
	Name string
	*Policy
}

// A Decision says whether a request is allowed. Reason is for the audit log; it
// tells more than a caller should learn.
type Decision struct {
	Allowed   bool
	Reason    string
	Policy    string // the name of the policy that decided, "" if none did
	Statement int    // the number of the statement in it that decided, from 1 on; 0 if none did
}

// Decide evaluates a request against all policies that apply to it: those of the
// caller and that of the key. If several statements lead to the decision, it
// names the first.
func Decide(policies []Named, r Request) Decision {
	r.Action = strings.ToLower(r.Action)
	allowed := Decision{Reason: "no statement allows it"}
	for _, p := range policies {
		if p.Policy == nil { // it may have been one that denies
			return Decision{Reason: fmt.Sprintf("policy %q was not parsed", p.Name), Policy: p.Name}
		}
		for i := range p.statements {
			s := &p.statements[i]
			if s.deny && s.applies(r) {
				return decision(p, i)
			}
			if !allowed.Allowed && !s.deny && s.applies(r) {
				allowed = decision(p, i)
			}
		}
	}
	return allowed
}

func decision(p Named, i int) Decision {
	s := p.statements[i]
	effect, sid := "allowed", ""
	if s.deny {
		effect = "denied"
	}
	if s.sid != "" {
		sid = fmt.Sprintf(" (%q)", s.sid)
	}
	return Decision{!s.deny, fmt.Sprintf("%s by statement %d%s of policy %q", effect, i+1, sid, p.Name), p.Name, i + 1}
}

// applies reports whether the statement is about r, whose Action is in lower case.
func (s *statement) applies(r Request) bool {
	return (s.principals == nil || slices.ContainsFunc(s.principals, func(p principal) bool { return p.includes(r.Principal) })) &&
		slices.ContainsFunc(s.actions, func(pattern string) bool { return match(pattern, r.Action) }) &&
		slices.ContainsFunc(s.resources, func(pattern string) bool { return match(pattern, r.Resource) }) &&
		!slices.ContainsFunc(s.conditions, func(c condition) bool { return !c.holds(r.Values) })
}
