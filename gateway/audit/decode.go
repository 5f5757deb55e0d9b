package audit

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// decodeEntryLine parses the line of a request that has the form of appendEntry: its fields, in their
// order and without spaces. It returns false for every other text, which can still be a line. For a
// line that it parses, the result is that of [Line.UnmarshalJSON], in a fifth of the time and with 3
// allocations instead of 23. FuzzDecodeEntryLine compares the two.
func decodeEntryLine(text []byte) (line Line, ok bool) {
	d := decoder{rest: string(text)} // all strings of the line share this copy
	line = Line{Seq: d.number(`{"Seq":`, 64), Prev: d.text(`,"Prev":`)}
	line.Entry = &Entry{ // the fields in the order of the line
		Time:                d.time(`,"Time":`),
		RequestId:           d.text(`,"RequestId":`),
		Door:                d.text(`,"Door":`),
		Protocol:            d.text(`,"Protocol":`),
		Source:              d.text(`,"Source":`),
		AccessKeyId:         d.text(`,"AccessKeyId":`),
		Principal:           d.text(`,"Principal":`),
		LoginUid:            d.text(`,"LoginUid":`),
		OnBehalfOf:          d.text(`,"OnBehalfOf":`),
		AsAdministrator:     d.skip(`,"AsAdministrator":true`),
		Reference:           d.text(`,"Reference":`),
		Action:              d.text(`,"Action":`),
		Quota:               d.text(`,"Quota":`),
		KeyId:               d.text(`,"KeyId":`),
		KeyVersionId:        d.text(`,"KeyVersionId":`),
		Subject:             d.text(`,"Subject":`),
		Alias:               d.text(`,"Alias":`),
		KeySpec:             d.text(`,"KeySpec":`),
		Algorithm:           d.text(`,"Algorithm":`),
		Digest:              d.bytes(`,"Digest":`),
		Valid:               d.flag(`,"Valid":`),
		DryRun:              d.skip(`,"DryRun":true`),
		Intended:            d.skip(`,"Intended":true`),
		Status:              int(d.number(`,"Status":`, 31)),
		Code:                d.text(`,"Code":`),
		Reason:              d.text(`,"Reason":`),
		DurationNanoseconds: time.Duration(d.number(`,"DurationNanoseconds":`, 63)),
		Change:              d.number(`,"Change":`, 64),
		Late:                d.skip(`,"Late":true`),
		NotReleased:         d.number(`,"NotReleased":`, 64),
		ClosedTo:            d.number(`,"ClosedTo":`, 64),
	}
	return line, d.rest == "}" && line.Seq > 0
}

// A decoder parses the fields of a line. The methods that take a key parse the field with that key if
// it is the next one; otherwise they return the zero value.
type decoder struct{ rest string }

// fail makes the decoder find nothing more.
func (d *decoder) fail() { d.rest = "" }

// skip skips a text, and reports whether it was there.
func (d *decoder) skip(text string) (ok bool) {
	d.rest, ok = strings.CutPrefix(d.rest, text)
	return ok
}

// token returns the JSON of a string without its quotes. isPlain means that this is the string itself.
func (d *decoder) token() (token string, isPlain bool) {
	if !d.skip(`"`) {
		d.fail()
		return "", false
	}
	isPlain = true
	for i := 0; i < len(d.rest); i++ {
		switch c := d.rest[i]; {
		case plain[c]:
		case c == '"':
			token, d.rest = d.rest[:i], d.rest[i+1:]
			return token, isPlain
		case c == '\\':
			i++
			fallthrough
		default:
			isPlain = false
		}
	}
	d.fail()
	return "", false
}

func (d *decoder) text(key string) string {
	if !d.skip(key) {
		return ""
	}
	token, isPlain := d.token()
	if isPlain {
		return token
	}
	var s string // has an escape or a character that is not ASCII, or is not valid
	if json.Unmarshal([]byte(`"`+token+`"`), &s) != nil {
		d.fail()
	}
	return s
}

// number parses an unsigned number of at most the given bits.
func (d *decoder) number(key string, bits int) uint64 {
	if !d.skip(key) {
		return 0
	}
	end := 0
	for end < len(d.rest) && '0' <= d.rest[end] && d.rest[end] <= '9' {
		end++
	}
	digits := d.rest[:end]
	d.rest = d.rest[end:]
	n, err := strconv.ParseUint(digits, 10, bits)
	if err != nil || digits[0] == '0' {
		d.fail()
	}
	return n
}

func (d *decoder) time(key string) (t time.Time) {
	if !d.skip(key) {
		return t
	}
	token, isPlain := d.token()
	if !isPlain || t.UnmarshalText([]byte(token)) != nil {
		d.fail()
	}
	return t
}

func (d *decoder) bytes(key string) []byte {
	if !d.skip(key) {
		return nil
	}
	token, isPlain := d.token()
	b, err := base64.StdEncoding.DecodeString(token)
	if !isPlain || err != nil {
		d.fail()
	}
	return b
}

func (d *decoder) flag(key string) *bool {
	if !d.skip(key) {
		return nil
	}
	v := d.skip("true")
	if !v && !d.skip("false") {
		d.fail()
	}
	return &v
}
