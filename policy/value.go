package policy

import (
	"errors"
	"math/big"
	"net/netip"
	"regexp"
	"time"
)

// The parsers' errors continue a message that begins with "<value> is".
var (
	errNumber  = errors.New("not a decimal number like -12.5 (exponents are not allowed)")
	errDate    = errors.New("not a time like 2006-01-02T15:04:05Z or 2006-01-02T15:04:05+08:00")
	errBool    = errors.New(`neither "true" nor "false"`)
	errAddress = errors.New("neither an IP address nor a prefix like 10.0.0.0/8 (zones are not allowed)")
	errMapped  = errors.New("a prefix of IPv4-mapped addresses that is shorter than 96 bits")
)

var decimalNumber = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)

// parseNumber parses a decimal number of any size and precision. big.Rat alone would also accept
// fractions, other bases and exponents. With an exponent, a short text can expand to gigabytes.
// Parsing a number as long as a whole document takes 3 ms.
func parseNumber(s string) (*big.Rat, error) {
	if len(s) > MaxDocument || !decimalNumber.MatchString(s) {
		return nil, errNumber
	}
	n, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil, errNumber
	}
	return n, nil
}

// rfc3339 checks what time.Parse does not. time.Parse accepts hours of one digit, commas and
// offsets of 24 hours, and drops fractions smaller than a nanosecond.
var rfc3339 = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?` +
	`(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`)

func parseDate(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || !rfc3339.MatchString(s) {
		return t, errDate
	}
	return t, nil
}

func parseBool(s string) (bool, error) {
	if s != "true" && s != "false" {
		return false, errBool
	}
	return s == "true", nil
}

// parsePrefix parses a prefix, or an address as a prefix of full length. It converts an IPv4-mapped
// prefix to an IPv4 prefix. Otherwise the prefix would contain no caller, because
// [parseRequestAddress] converts the callers' addresses, too.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return p, errAddress
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if !p.Addr().Is4In6() {
		return p, nil
	}
	if p.Bits() < 96 {
		return p, errMapped
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96), nil
}

// parseRequestAddress parses the address of a request. It refuses an address with a zone, which
// belongs to a link and not to the network that a prefix describes.
func parseRequestAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return a, errAddress
	}
	return a.Unmap(), nil
}
