package kms

import "time"

// TimeLayout is how times are written: UTC, to the second.
const TimeLayout = "2006-01-02T15:04:05Z"

// ParseTime reads a time as the API writes it. Earlier years are slips, and not
// all of them can be told in a certificate.
func ParseTime(parameter, text string) (time.Time, error) {
	t, err := time.Parse(TimeLayout, text)
	if err != nil || t.Format(TimeLayout) != text || t.Year() < 2000 {
		return t, InvalidParameter(parameter, "it has to be a time like %s (UTC); NotBefore and NotAfter are given both or not at all", TimeLayout)
	}
	return t, nil
}

// FormatTime writes a time as the API does; the zero time is empty.
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(TimeLayout)
}
