package kms

import "time"

// TimeLayout is the layout of times in the API: UTC, with a resolution of one second.
const TimeLayout = "2006-01-02T15:04:05Z"

// ParseTime parses the value of a parameter, a time in TimeLayout. It returns an InvalidParameter
// error for any other form and for a year before 2000: such a year is a mistake, and a certificate
// cannot express every such year.
func ParseTime(parameter, text string) (time.Time, error) {
	t, err := time.Parse(TimeLayout, text)
	if err != nil || t.Format(TimeLayout) != text || t.Year() < 2000 {
		return t, InvalidParameter(parameter,
			"it must be a UTC time like %s (send both NotBefore and NotAfter, or neither)", TimeLayout)
	}
	return t, nil
}

// FormatTime returns a time in TimeLayout, and "" for the zero time.
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(TimeLayout)
}
