package policy

import (
	"errors"
	"math/big"
	"net/netip"
	"regexp"
	"time"
)

// The errors of the parsers follow "<value> is".
var (
	errNumber  = errors.New("not a decimal number like -12.5, without an exponent")
	errDate    = errors.New("not a time like 2006-01-02T15:04:05Z or 2006-01-02T15:04:05+08:00")
	errBool    = errors.New(`neither "true" nor "false"`)
	errAddress = errors.New("not an IP address, and not a prefix like 10.0.0.0/8, without a zone")
	errMapped  = errors.New("a prefix that begins like those of mapped IPv4 addresses, but has fewer than their 96 bits")
)

var decimalNumber = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)

// parseNumber parses a decimal number of any size and precision. big.Rat would accept
// more: fractions, other bases, and exponents, which make a number of gigabytes of a
// short text. A number as long as a whole document takes 3 ms.
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

// rfc3339 is what time.Parse does not check: it takes hours of one digit, commas,
// and offsets of 24 hours, and drops what is smaller than a nanosecond.
var rfc3339 = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`)

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

// parsePrefix parses a prefix, or an address as one of its length. It makes IPv4
// prefixes of those that are mapped into IPv6: the callers' addresses are IPv4,
// too, so that it would contain none.
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

// parseCaller parses an address of a request. One with a zone is of a link, not
// of the network that a prefix is about.
func parseCaller(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return a, errAddress
	}
	return a.Unmap(), nil
}
