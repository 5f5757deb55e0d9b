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
	errDuration = errors.New("write a number with its unit: 500ms, 10s, 5m, 24h")
	errText     = errors.New("must be a text: put the value in quotes")
	errValue    = errors.New("must be one value, not a list or a section")
)

// A form is what a string has to be like.
type form struct {
	ok   func(string) bool
	want string
}

// forms are the forms by the names that they have in the tags of Config. A
// mistake never repeats the value: it might be a PIN in the wrong place.
var forms = map[string]form{
	"path":     {func(string) bool { return true }, "must be a path"},
	"instance": {matches(`[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`), "must be the id of a KMS instance, as kst-hzz65f176a0ogplgqexample: small letters, digits and hyphens, at most 63"},
	"region":   {matches(`[a-z0-9-]{1,63}`), "must be a region's id, as cn-hangzhou"},
	"account":  {matches(`[0-9]{1,32}`), "must be an account's id: 1 to 32 digits"},
	"label":    {func(s string) bool { return len(s) <= 32 }, "must have at most 32 bytes, as a token's label has in PKCS#11"},
	"serial":   {func(s string) bool { return len(s) <= 16 }, "must have at most 16 bytes, as a token's serial number has in PKCS#11"},
	"variable": {matches(`[A-Za-z_][A-Za-z0-9_]*`), "must be the name of an environment variable, as KMSGATE_PIN; the PIN itself does not belong here"},
	"address":  {isAddress, "must be host:port, as 127.0.0.1:443, or 0.0.0.0:443 for every address"},
	"name":     {isName, "must be a DNS name or an IP address"},
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

func text(n *yaml.Node, tag reflect.StructTag) (string, error) {
	s := n.Value
	switch {
	case n.Kind != yaml.ScalarNode:
		return "", errValue
	case n.ShortTag() != "!!str":
		return "", errText
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", errors.New("has a character that cannot be printed: remove it")
	case s == "":
		return "", nil // whether it may be is asked of all fields in the end
	}
	if values := strings.Fields(tag.Get("oneof")); len(values) > 0 && !slices.Contains(values, s) {
		return "", errors.New(wanted(tag))
	}
	if f, has := forms[tag.Get("is")]; has && !f.ok(s) {
		return "", errors.New(wanted(tag))
	}
	return s, nil
}

// wanted says what a text has to be.
func wanted(tag reflect.StructTag) string {
	if values := strings.Fields(tag.Get("oneof")); len(values) > 0 {
		last := len(values) - 1
		return fmt.Sprintf("must be %s or %s", strings.Join(values[:last], ", "), values[last])
	}
	return forms[tag.Get("is")].want
}

func count(n *yaml.Node, tag reflect.StructTag) (int, error) {
	if n.Kind != yaml.ScalarNode {
		return 0, errValue
	}
	if n.ShortTag() == "!!str" {
		return 0, errWhole
	}
	v, err := parseWhole(n.Value)
	if errors.Is(err, strconv.ErrRange) || v > math.MaxInt32 {
		return 0, errTooLarge
	}
	return least(int(v), err, tag, strconv.Atoi)
}

func size(n *yaml.Node, tag reflect.StructTag) (Size, error) {
	if n.Kind != yaml.ScalarNode {
		return 0, errValue
	}
	if strings.HasPrefix(n.Value, "-") {
		return 0, errNegative
	}
	v, err := parseSize(n.Value)
	return least(v, err, tag, parseSize)
}

func duration(n *yaml.Node, tag reflect.StructTag) (time.Duration, error) {
	if n.Kind != yaml.ScalarNode {
		return 0, errValue
	}
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		return 0, errDuration
	}
	if v < 0 {
		return 0, errNegative
	}
	return least(v, err, tag, time.ParseDuration)
}

// least refuses what is below the tag's min.
func least[T int | Size | time.Duration](v T, err error, tag reflect.StructTag, parse func(string) (T, error)) (T, error) {
	text, has := tag.Lookup("min")
	if err != nil || !has {
		return v, err
	}
	minimum, err := parse(text)
	if err == nil && v < minimum {
		err = fmt.Errorf("must be at least %s", text)
	}
	return v, err
}

// parseWhole reads digits and nothing else: 010, 0x10 and 1_000 are numbers in
// YAML too, but not to everybody the same.
func parseWhole(s string) (int64, error) {
	if digits := strings.TrimPrefix(s, "-"); digits == "" || strings.Trim(digits, "0123456789") != "" || len(digits) > 1 && digits[0] == '0' {
		return 0, errWhole
	}
	if s[0] == '-' {
		return 0, errNegative
	}
	return strconv.ParseInt(s, 10, 64)
}
