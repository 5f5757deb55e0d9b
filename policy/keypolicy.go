package policy

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// keyActions are the actions, without "kms:", that take effect in a key policy
// (KMS, "Configure a key policy"); List* and so on stand for all that begin so.
var keyActions = []string{"*", "List*", "Describe*", "Create*", "Enable*", "Disable*", "Get*", "Set*", "Update*", "Delete*", "Cancel*",
	"TagResource", "UntagResource", "ImportKeyMaterial", "ScheduleKeyDeletion", "Encrypt", "Decrypt", "GenerateDataKey",
	"GenerateAndExportDataKey", "AsymmetricEncrypt", "AsymmetricDecrypt", "AsymmetricSign", "AsymmetricVerify", "GenerateMac", "VerifyMac"}

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

// ParseKeyPolicy parses a document of the kind that is set for one key, of at
// most MaxDocument bytes. Its Resource is ["*"], which stands for that key and
// matches every resource: to ask it about that key only is up to the caller. Its
// errors are like Parse's.
//
// A statement applies to a caller whom one of its principals includes.
// acs:ram::<account>:* includes every user and role of the account, but not
// acs:ram::<account>:root. The local administrator acts as root, and must not be
// locked out of a key, past repair, by a Deny that was meant for everybody:
// whoever means root says root. All other principals include only whom they
// name, letter for letter.
func ParseKeyPolicy(document string) (*Policy, error) {
	return parse(document, keyGrammar)
}

// A principal is an ARN, or the part of one, "acs:ram::<account>:", that stands
// for all users and roles of the account.
type principal string

func (p principal) includes(caller string) bool {
	if !strings.HasSuffix(string(p), ":") {
		return caller == string(p)
	}
	name, ok := strings.CutPrefix(caller, string(p))
	return ok && (strings.HasPrefix(name, "user/") || strings.HasPrefix(name, "role/"))
}

func readSid(r *reader, first json.Token, into *statement) (err error) {
	into.sid, err = r.text(first)
	if err == nil && into.sid != "" && !sid.MatchString(into.sid) {
		err = r.errorf("the Sid has other characters than A-Za-z0-9_/+=.@- and spaces, or more than 128")
	}
	return err
}

func readPrincipals(r *reader, first json.Token, into *statement) error {
	if err := r.object(first, func(name string) error {
		if name != "RAM" {
			return r.unknown("kind of principals", name, []string{"RAM"})
		}
		return r.eachText(r.next(), func(arn string) error {
			if !ramPrincipal.MatchString(arn) {
				return r.errorf("%.40q is not acs:ram::<account>: and *, root, user/<name> or role/<name>", arn)
			}
			into.principals = append(into.principals, principal(strings.TrimSuffix(arn, "*")))
			return nil
		})
	}); err != nil {
		return err
	}
	if into.principals == nil { // which would be for everybody
		return r.errorf("the Principal has no RAM")
	}
	return nil
}

func readKeyActions(r *reader, first json.Token, into *statement) error {
	return r.eachText(first, func(action string) error {
		if !isKeyAction(action) {
			return r.errorf("%.40q takes no effect in a key policy", action)
		}
		into.actions = append(into.actions, strings.ToLower(action))
		return nil
	})
}

func isKeyAction(action string) bool {
	name, ok := strings.CutPrefix(action, "kms:")
	return ok && slices.ContainsFunc(keyActions, func(known string) bool {
		prefix, open := strings.CutSuffix(known, "*")
		return name == known || open && prefix != "" && strings.HasPrefix(name, prefix) && !strings.ContainsAny(name[len(prefix):], "*?")
	})
}

// readAnyResource takes ["*"] only, not "*": KMS wants that exactly.
func readAnyResource(r *reader, first json.Token, into *statement) error {
	if err := r.list(first, func(first json.Token) error {
		if first != "*" {
			return r.errorf(`the Resource is not ["*"]`)
		}
		into.resources = append(into.resources, "*")
		return nil
	}); err != nil {
		return err
	}
	if len(into.resources) > 1 {
		return r.errorf(`the Resource is not ["*"]`)
	}
	return nil
}
