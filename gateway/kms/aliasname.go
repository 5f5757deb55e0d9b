package kms

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// AliasPrefix begins every alias, and MaxAliasName is the most characters of one, the prefix
// included.
const (
	AliasPrefix   = "alias/"
	MaxAliasName  = 255
	aliasReserved = "alias/acs"
)

// CheckAliasName checks an alias against KMS's rules. Every printable character is valid.
func CheckAliasName(name string) error {
	printable := utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	switch {
	case !strings.HasPrefix(name, AliasPrefix) || len(name) == len(AliasPrefix):
		return InvalidParameter("AliasName", "it must begin with %s and have at least one more character", AliasPrefix)
	case strings.HasPrefix(name, aliasReserved):
		return InvalidParameter("AliasName", "names that begin with %s are reserved", aliasReserved)
	case utf8.RuneCountInString(name) > MaxAliasName:
		return InvalidParameter("AliasName", "it has more than %d characters", MaxAliasName)
	case !printable:
		return InvalidParameter("AliasName", "it contains a character that is not printable")
	}
	return nil
}
