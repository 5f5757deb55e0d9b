package kms

import "time"

// TimeLayout is the layout of times in the API: UTC, to the second.
const TimeLayout = "2006-01-02T15:04:05Z"

// ParseTime parses a time of the parameter, in TimeLayout. Any other form is
// InvalidParameter, and so is a year before 2000: it is a slip, and a certificate cannot
// express all of them.
func ParseTime(parameter, text string) (time.Time, error) {
	t, err := time.Parse(TimeLayout, text)
	if err != nil || t.Format(TimeLayout) != text || t.Year() < 2000 {
		return t, InvalidParameter(parameter, "it has to be a time like %s (UTC); NotBefore and NotAfter are given both or not at all", TimeLayout)
	}
	return t, nil
}

// FormatTime returns a time in TimeLayout; the zero time is "".
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(TimeLayout)
}
