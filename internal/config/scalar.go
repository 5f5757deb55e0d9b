package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

var (
	errWhole    = errors.New("must be a whole number, in digits and without quotes")
	errNegative = errors.New("must not be negative")
	errTooLarge = errors.New("is too large")
	errDuration = errors.New("must be a number with its unit, such as 500ms, 10s, 5m or 24h")
	errString   = errors.New("must be a string: put the value in quotes")
	errScalar   = errors.New("must be a single value, not a list or a section")
)

// A form is a condition on a string.
type form struct {
	ok   func(string) bool
	want string
}

// forms are the forms by their names in the tags of Config. A message never repeats the value,
// which can be a PIN in the wrong field.
var forms = map[string]form{
	"path": {func(string) bool { return true }, "must be a path"},
	"instance": {matches(`[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`),
		"must be the id of a KMS instance, such as kst-hzz65f176a0ogplgqexample: at most 63 lower-case letters, " +
			"digits and hyphens"},
	"region":  {matches(`[a-z0-9-]{1,63}`), "must be the id of a region, such as cn-hangzhou"},
	"account": {matches(`[0-9]{1,32}`), "must be the id of an account: 1 to 32 digits"},
	"label": {func(s string) bool { return len(s) <= 32 },
		"must have at most 32 bytes, the limit of PKCS#11 for a token's label"},
	"serial": {func(s string) bool { return len(s) <= 16 },
		"must have at most 16 bytes, the limit of PKCS#11 for a token's serial number"},
	"variable": {matches(`[A-Za-z_][A-Za-z0-9_]*`),
		"must be the name of an environment variable, such as KMSGATE_PIN, and not the PIN itself"},
	"address": {isAddress, "must be host:port, such as 127.0.0.1:443, or 0.0.0.0:443 for all addresses"},
	"name":    {isName, "must be a DNS name or an IP address"},
}

func matches(pattern string) func(string) bool {
	return regexp.MustCompile("^(?:" + pattern + ")$").MatchString
}

var isDNSName = matches(`(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?`)

func isName(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil || isDNSName(s) && len(s) <= 253
}

func isAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !isName(host) || strings.HasPrefix(host, "*") {
		return false
	}
	n, err := parseWhole(port)
	return err == nil && n <= math.MaxUint16
}

func decodeString(n *yaml.Node, tag reflect.StructTag) (string, error) {
	s := n.Value
	switch {
	case n.Kind != yaml.ScalarNode:
		return "", errScalar
	case n.ShortTag() != "!!str":
		return "", errString
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", errors.New("has a character that is not printable: remove it")
	case s == "":
		return "", nil // require reports an empty field that must not be
	}
	if values := strings.Fields(tag.Get("oneof")); len(values) > 0 && !slices.Contains(values, s) {
		return "", errors.New(requirement(tag))
	}
	if f, ok := forms[tag.Get("is")]; ok && !f.ok(s) {
		return "", errors.New(requirement(tag))
	}
	return s, nil
}

// requirement returns the condition on a string as the end of a sentence.
func requirement(tag reflect.StructTag) string {
	if values := strings.Fields(tag.Get("oneof")); len(values) > 0 {
		last := len(values) - 1
		return fmt.Sprintf("must be %s or %s", strings.Join(values[:last], ", "), values[last])
	}
	return forms[tag.Get("is")].want
}

func decodeInt(n *yaml.Node, tag reflect.StructTag) (int, error) {
	if n.Kind != yaml.ScalarNode {
		return 0, errScalar
	}
	if n.ShortTag() == "!!str" {
		return 0, errWhole
	}
	v, err := parseWhole(n.Value)
	if errors.Is(err, strconv.ErrRange) || v > math.MaxInt32 {
		return 0, errTooLarge
	}
	return checkMinimum(int(v), err, tag, strconv.Atoi)
}

func decodeSize(n *yaml.Node, tag reflect.StructTag) (Size, error) {
	if n.Kind != yaml.ScalarNode {
		return 0, errScalar
	}
	if strings.HasPrefix(n.Value, "-") {
		return 0, errNegative
	}
	v, err := parseSize(n.Value)
	return checkMinimum(v, err, tag, parseSize)
}

func decodeDuration(n *yaml.Node, tag reflect.StructTag) (time.Duration, error) {
	if n.Kind != yaml.ScalarNode {
		return 0, errScalar
	}
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		return 0, errDuration
	}
	if v < 0 {
		return 0, errNegative
	}
	return checkMinimum(v, err, tag, time.ParseDuration)
}

// checkMinimum returns an error for a value below the tag's min. It returns an err that is not
// nil unchanged.
func checkMinimum[T int | Size | time.Duration](
	v T, err error, tag reflect.StructTag, parse func(string) (T, error),
) (T, error) {
	text, ok := tag.Lookup("min")
	if err != nil || !ok {
		return v, err
	}
	minimum, err := parse(text)
	if err == nil && v < minimum {
		err = fmt.Errorf("must be at least %s", text)
	}
	return v, err
}

// parseWhole parses a whole number in decimal digits. It refuses 010, 0x10 and 1_000: YAML
// accepts them as numbers too, but readers can disagree about their values.
func parseWhole(s string) (int64, error) {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" || len(digits) > 1 && digits[0] == '0' {
		return 0, errWhole
	}
	if s[0] == '-' {
		return 0, errNegative
	}
	return strconv.ParseInt(s, 10, 64)
}
