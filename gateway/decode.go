package gateway

import (
	"encoding/base64"
	"reflect"
	"strconv"
	"strings"
)

// decode fills the fields of *into, a struct, from the parameters of the same
// names. Parameters without a field are let be: clients send more than an
// operation knows. A field can be a string, a bool, a *int, nil if it was
// not sent, or a []byte, which is sent as standard Base64 with padding. The tag `kms:"required"` refuses a
// request in which it is missing or empty. Errors are MissingParameter and
// InvalidParameter.
func decode(parameters map[string]string, into any) error {
	v := reflect.ValueOf(into).Elem()
	for i := range v.NumField() {
		field := v.Type().Field(i)
		text := parameters[field.Name]
		if text == "" {
			if field.Tag.Get("kms") == "required" {
				return missingParameter(field.Name)
			}
			continue
		}
		if err := decodeField(field.Name, text, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

func decodeField(name, text string, into reflect.Value) error {
	switch into.Interface().(type) {
	case string:
		into.SetString(text)
	case *int:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return invalidParameter(name, "%q is not a whole number of 32 bits", clip(text))
		}
		into.Set(reflect.ValueOf(new(int(n))))
	case bool:
		b, ok := parseBool(text)
		if !ok {
			return invalidParameter(name, `%q is neither "true" nor "false"`, clip(text))
		}
		into.SetBool(b)
	case []byte:
		// Strict: trailing bits that are not zero would make two texts of one
		// value.
		b, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || strings.ContainsAny(text, "\r\n") {
			return invalidParameter(name, "it is not standard Base64 with padding")
		}
		into.SetBytes(b)
	default:
		panic("decode: no parameter can be a " + into.Type().String())
	}
	return nil
}

// parseBool takes "true" and "false" in any case: Python's SDK sends "True".
func parseBool(text string) (value, ok bool) {
	switch strings.ToLower(text) {
	case "true":
		return true, true
	case "false":
		return false, true
	}
	return false, false
}

// maxEcho bounds what of a request's own text goes into messages and log lines.
const maxEcho = 256

func clip(s string) string {
	if len(s) > maxEcho {
		return s[:maxEcho] + "…"
	}
	return s
}
