package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// A Size is a number of bytes.
type Size int64

// The units of a Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

// units are in descending order, so that String uses the largest unit that fits.
var units = []struct {
	name  string
	bytes Size
}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

var errSize = errors.New("must be a whole number of bytes, or of KiB, MiB or GiB, such as 100MiB")

// parseSize parses sizes such as 1024, 1KiB and 100MiB. It refuses fractions and overflows.
func parseSize(s string) (Size, error) {
	unit := Size(1)
	for _, u := range units {
		if digits, found := strings.CutSuffix(s, u.name); found {
			s, unit = digits, u.bytes
			break
		}
	}
	n, err := parseWhole(s)
	if errors.Is(err, strconv.ErrRange) || err == nil && n > math.MaxInt64/int64(unit) {
		return 0, errTooLarge
	}
	if err != nil {
		return 0, errSize
	}
	return Size(n) * unit, nil
}

// String returns the size in the form that parseSize parses.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalYAML encodes a size without a unit as a number, which needs no quotes.
func (s Size) MarshalYAML() (any, error) {
	if s == 0 || s%KiB != 0 {
		return int64(s), nil
	}
	return s.String(), nil
}
