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

// units are tried from the largest, so that a Size is written shortly.
var units = []struct {
	name  string
	bytes Size
}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

var errSize = errors.New("write a whole number of bytes, or one followed by KiB, MiB or GiB: 100MiB")

// parseSize reads 1024, 1KiB, 100MiB. What would round or wrap is refused.
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

// String writes the size as parseSize reads it.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalYAML writes plain bytes as a number, which needs no quotes.
func (s Size) MarshalYAML() (any, error) {
	if s == 0 || s%KiB != 0 {
		return int64(s), nil
	}
	return s.String(), nil
}
