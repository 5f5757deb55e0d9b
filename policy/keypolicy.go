package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxKeyPolicy is the most bytes that a key policy may have.
const MaxKeyPolicy = 32768

// keyActions are the actions, without "kms:", that take effect in a key policy
// (KMS, "Configure a key policy"); List* and so on stand for all that begin so.
var keyActions = []string{"*", "List*", "Describe*", "Create*", "Enable*", "Disable*", "Get*", "Set*", "Update*", "Delete*", "Cancel*",
	"TagResource", "UntagResource", "ImportKeyMaterial", "ScheduleKeyDeletion", "Encrypt", "Decrypt", "GenerateDataKey",
	"GenerateAndExportDataKey", "AsymmetricEncrypt", "AsymmetricDecrypt", "AsymmetricSign", "AsymmetricVerify", "GenerateMac", "VerifyMac"}

var (
	sid          = regexp.MustCompile(`^[A-Za-z0-9_/+=.@ -]{1,128}$`)
	ramPrincipal = regexp.MustCompile(`^acs:ram::[0-9]+:(\*|root|(user|role)/[A-Za-z0-9._@-]+)$`)
)

// CheckKeyPolicy checks a document of the kind that is set for one key. Its
// errors say what is wrong.
func CheckKeyPolicy(document string) error {
	if !utf8.ValidString(document) {
		return errors.New("the policy is not UTF-8")
	}
	if len(document) > MaxKeyPolicy {
		return fmt.Errorf("the policy has %d bytes, more than %d", len(document), MaxKeyPolicy)
	}
	var doc struct {
		Version   string
		Statement []struct {
			Sid       string
			Effect    string
			Principal struct{ RAM oneOrMany }
			Action    oneOrMany
			Resource  []string // not a string: KMS wants ["*"] exactly
			Condition json.RawMessage
		}
	}
	if err := decodeStrictly(document, &doc); err != nil {
		return err
	}
	if doc.Version != "1" {
		return fmt.Errorf(`the policy's Version is %q, not "1"`, doc.Version)
	}
	if len(doc.Statement) == 0 {
		return errors.New("the policy has no Statement")
	}
	for i, s := range doc.Statement {
		if err := errors.Join(
			require(s.Sid == "" || sid.MatchString(s.Sid), "the Sid has other characters than A-Za-z0-9_/+=.@- or more than 128"),
			require(s.Effect == "Allow" || s.Effect == "Deny", `the Effect is neither "Allow" nor "Deny"`),
			require(len(s.Principal.RAM) > 0 && !slices.ContainsFunc(s.Principal.RAM, notA(ramPrincipal.MatchString)),
				"the Principal is not a RAM list of acs:ram::<account>: and *, root, user/<name> or role/<name>"),
			require(len(s.Action) > 0 && !slices.ContainsFunc(s.Action, notA(isKeyAction)), "the Action has something that takes no effect in a key policy"),
			require(slices.Equal(s.Resource, []string{"*"}), `the Resource is not ["*"]`),
			require(s.Condition == nil || json.Valid(s.Condition) && strings.HasPrefix(strings.TrimSpace(string(s.Condition)), "{"), "the Condition is no object"),
		); err != nil {
			return fmt.Errorf("statement %d: %w", i+1, err)
		}
	}
	return nil
}

func require(ok bool, otherwise string) error {
	if ok {
		return nil
	}
	return errors.New(otherwise)
}

func notA(is func(string) bool) func(string) bool { return func(s string) bool { return !is(s) } }

func isKeyAction(action string) bool {
	name, ok := strings.CutPrefix(action, "kms:")
	return ok && slices.ContainsFunc(keyActions, func(known string) bool {
		prefix, open := strings.CutSuffix(known, "*")
		return name == known || open && prefix != "" && strings.HasPrefix(name, prefix) && !strings.ContainsAny(name[len(prefix):], "*?")
	})
}
