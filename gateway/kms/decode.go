package kms

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Decode fills the fields of *into, a struct, from the parameters of the same names, as
// [Parameter] describes them. It ignores parameters without a field, because clients send
// parameters that an operation does not have. A field is one of
//
//   - a string, or a *string, which is nil if the parameter was not sent;
//   - a *int or *bool, which is nil if the parameter was not sent;
//   - a []byte, sent as standard Base64 with padding;
//   - a []string or a slice of structs of strings, sent flat (Name.1, Name.2, … and
//     Name.1.Member, …) or as JSON text under the name itself.
//
// A text is not copied: it shares the memory of the parameter. The errors are those that MissingParameter
// and InvalidParameter return.
func Decode(parameters map[string]string, into any) error {
	v := reflect.ValueOf(into).Elem()
	all := parametersOf(v.Type())
	for i := range all {
		if err := all[i].decode(parameters, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

func (p *Parameter) decode(parameters map[string]string, into reflect.Value) error {
	if p.Kind == List {
		if err := decodeList(parameters, p.Name, into); err != nil {
			return err
		}
		if p.Required && into.Len() == 0 {
			return MissingParameter(p.Name)
		}
		return nil
	}
	text, sent := parameters[p.Name]
	if p.optional && sent {
		into.Set(reflect.ValueOf(new(text)))
		return p.checkText(text)
	}
	if text == "" {
		if p.Required || p.Sent && !sent {
			return MissingParameter(p.Name)
		}
		return nil
	}
	return p.decodeField(text, into)
}

func (p *Parameter) decodeField(text string, into reflect.Value) error {
	switch p.Kind {
	case Text:
		into.SetString(text)
		return p.checkText(text)
	case Integer:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return InvalidParameter(p.Name, "%q is not a 32-bit integer", Clip(text))
		}
		into.Set(reflect.ValueOf(new(int(n))))
		return p.checkInteger(int(n))
	case Boolean:
		b, ok := ParseBool(text)
		if !ok {
			return InvalidParameter(p.Name, `%q is neither "true" nor "false"`, Clip(text))
		}
		into.Set(reflect.ValueOf(&b))
	case Bytes:
		b, err := strictBase64.DecodeString(text)
		if err != nil || strings.ContainsAny(text, "\r\n") {
			return InvalidParameter(p.Name, "it is not standard Base64 with padding")
		}
		into.SetBytes(b)
	}
	return nil
}

// strictBase64 refuses trailing bits that are not zero: otherwise two texts would decode to one value.
var strictBase64 = base64.StdEncoding.Strict()

// MaxList is the largest number of members of a list parameter.
const MaxList = 100

// decodeList fills a []string or a slice of structs of strings. Members are numbered from 1
// without gaps. decodeList refuses a list that is sent both flat and as JSON.
func decodeList(parameters map[string]string, name string, into reflect.Value) error {
	flat := 0
	for p := range parameters {
		if strings.HasPrefix(p, name+".") {
			flat++
		}
	}
	if text := parameters[name]; text != "" {
		err := json.Unmarshal([]byte(text), into.Addr().Interface())
		if err != nil || into.Len() > MaxList || flat > 0 {
			return InvalidParameter(name, "send at most %d members, either as %s.1, %s.2, … or as a JSON list",
				MaxList, name, name)
		}
		return nil
	}
	for n := 1; flat > 0; n++ {
		member := reflect.New(into.Type().Elem()).Elem()
		sent := decodeMember(parameters, fmt.Sprintf("%s.%d", name, n), member)
		if sent == 0 || n > MaxList {
			return InvalidParameter(name, "its members must be %s.1, %s.2, …, without gaps and at most %d",
				name, name, MaxList)
		}
		flat -= sent
		into.Set(reflect.Append(into, member))
	}
	return nil
}

// decodeMember fills a member of a list and returns the number of parameters that it used.
func decodeMember(parameters map[string]string, name string, into reflect.Value) (sent int) {
	fill := func(name string, into reflect.Value) {
		if text, ok := parameters[name]; ok {
			into.SetString(text)
			sent++
		}
	}
	if into.Kind() == reflect.String {
		fill(name, into)
		return sent
	}
	for i := range into.NumField() {
		fill(name+"."+into.Type().Field(i).Name, into.Field(i))
	}
	return sent
}

// ParseBool parses "true" and "false" in any case: Python's SDK sends "True".
func ParseBool(text string) (value, ok bool) {
	switch strings.ToLower(text) {
	case "true":
		return true, true
	case "false":
		return false, true
	}
	return false, false
}

// MaxReason is the length to which the reason in an audit line is truncated, in bytes. A denial
// that names the longest policy is shorter.
const MaxReason = 1024

// MaxEcho is the length to which text from a request is truncated in messages and log lines, in
// bytes.
const MaxEcho = 256

// Clip returns s, which comes from a request, truncated to MaxEcho bytes as by ClipTo.
func Clip(s string) string { return ClipTo(MaxEcho, s) }

// ClipTo returns s, truncated to limit bytes and with "…" appended if it is longer.
func ClipTo(limit int, s string) string {
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
