package policy

import (
	"cmp"
	"errors"
	"net/netip"
	"regexp"
	"strings"
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

// A decimal is a number of any size and precision. Its digits are never
// computed with, only compared, which takes no longer than reading them.
type decimal struct {
	negative bool
	whole    string // without leading zeros: "" in 0.5
	fraction string // without trailing zeros
}

var decimalNumber = regexp.MustCompile(`^(-?)([0-9]+)(?:\.([0-9]+))?$`)

func parseDecimal(s string) (decimal, error) {
	m := decimalNumber.FindStringSubmatch(s)
	if m == nil {
		return decimal{}, errNumber
	}
	d := decimal{whole: strings.TrimLeft(m[2], "0"), fraction: strings.TrimRight(m[3], "0")}
	d.negative = m[1] == "-" && d != decimal{} // there is one zero
	return d, nil
}

func (d decimal) compare(other decimal) int {
	if d.negative != other.negative {
		if d.negative {
			return -1
		}
		return 1
	}
	order := cmp.Or(cmp.Compare(len(d.whole), len(other.whole)), cmp.Compare(d.whole, other.whole), cmp.Compare(d.fraction, other.fraction))
	if d.negative {
		return -order
	}
	return order
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
