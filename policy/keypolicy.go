package policy

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// keyActions are the actions, without "kms:", that take effect in a key policy (KMS, "Configure a
// key policy"). A trailing * matches every action with that prefix.
var keyActions = []string{
	"*", "List*", "Describe*", "Create*", "Enable*", "Disable*", "Get*", "Set*", "Update*", "Delete*", "Cancel*",
	"TagResource", "UntagResource", "ImportKeyMaterial", "ScheduleKeyDeletion", "Encrypt", "Decrypt", "GenerateDataKey",
	"GenerateAndExportDataKey", "AsymmetricEncrypt", "AsymmetricDecrypt", "AsymmetricSign", "AsymmetricVerify",
	"GenerateMac", "VerifyMac",
}

var (
	sid          = regexp.MustCompile(`^[A-Za-z0-9_/+=.@ -]{1,128}$`)
	ramPrincipal = regexp.MustCompile(`^acs:ram::[0-9]+:(\*|root|(user|role)/[A-Za-z0-9._@-]+)$`)
)

var keyGrammar = grammar{
	"Sid":       {readSid, true},
	"Effect":    {read: readEffect},
	"Principal": {read: readPrincipals},
	"Action":    {read: readKeyActions},
	"Resource":  {read: readAnyResource},
	"Condition": {readConditions, true},
}

// ParseKeyPolicy parses a key policy, a document that applies to one key, of at most MaxDocument
// bytes. Its Resource is ["*"], which means that key. The policy itself matches every resource, so
// the caller must evaluate it only for requests about that key. Errors are like those of [Parse].
//
// A statement applies to a caller if one of its principals includes the caller.
// acs:ram::<account>:* includes every user and role of the account, but not
// acs:ram::<account>:root. The local administrator acts as root, and a Deny meant for everybody
// must not lock the administrator out of a key beyond repair. A statement for root must name root.
// Every other principal includes only the caller with exactly that ARN.
func ParseKeyPolicy(document string) (*Policy, error) {
	return parse(document, keyGrammar)
}

// A principal is an ARN, or the prefix "acs:ram::<account>:" for all users and roles of the
// account.
type principal string

func (p principal) includes(caller string) bool {
	if !strings.HasSuffix(string(p), ":") {
		return caller == string(p)
	}
	name, ok := strings.CutPrefix(caller, string(p))
	return ok && (strings.HasPrefix(name, "user/") || strings.HasPrefix(name, "role/"))
}

func readSid(r *reader, first json.Token, s *statement) (err error) {
	s.sid, err = r.text(first)
	if err == nil && s.sid != "" && !sid.MatchString(s.sid) {
		err = r.errorf("the Sid must be at most 128 of the characters A-Za-z0-9_/+=.@- and space")
	}
	return err
}

func readPrincipals(r *reader, first json.Token, s *statement) error {
	if err := r.object(first, func(name string) error {
		if name != "RAM" {
			return r.unknown("principal type", name, []string{"RAM"})
		}
		return r.eachText(r.next(), func(arn string) error {
			if !ramPrincipal.MatchString(arn) {
				return r.errorf("%.40q is not acs:ram::<account>: followed by *, root, user/<name> or role/<name>", arn)
			}
			s.principals = append(s.principals, principal(strings.TrimSuffix(arn, "*")))
			return nil
		})
	}); err != nil {
		return err
	}
	if s.principals == nil { // without principals the statement would apply to everyone
		return r.errorf("the Principal has no RAM")
	}
	return nil
}

func readKeyActions(r *reader, first json.Token, s *statement) error {
	return r.eachText(first, func(action string) error {
		if !isKeyAction(action) {
			return r.errorf("%.40q has no effect in a key policy", action)
		}
		s.actions = append(s.actions, strings.ToLower(action))
		return nil
	})
}

func isKeyAction(action string) bool {
	name, ok := strings.CutPrefix(action, "kms:")
	return ok && slices.ContainsFunc(keyActions, func(known string) bool {
		prefix, open := strings.CutSuffix(known, "*")
		return name == known ||
			open && prefix != "" && strings.HasPrefix(name, prefix) && !strings.ContainsAny(name[len(prefix):], "*?")
	})
}

// readAnyResource accepts only the list ["*"], not the string "*", because KMS requires exactly
// that.
func readAnyResource(r *reader, first json.Token, s *statement) error {
	if err := r.list(first, func(first json.Token) error {
		if first != "*" {
			return r.errorf(`the Resource must be ["*"]`)
		}
		s.resources = append(s.resources, "*")
		return nil
	}); err != nil {
		return err
	}
	if len(s.resources) > 1 {
		return r.errorf(`the Resource must be ["*"]`)
	}
	return nil
}
