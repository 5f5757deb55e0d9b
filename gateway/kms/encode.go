package kms

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"strings"
)

// A Format encodes responses. The ContentType is spelled exactly as Alibaba Cloud KMS spells it,
// because SDKs compare that of XML as a string.
type Format struct {
	ContentType string
	// Encode appends body to b, as the answer to the action.
	Encode func(b *bytes.Buffer, action string, body any) error
}

// The formats of responses.
var (
	FormatJSON = &Format{"application/json;charset=utf-8", func(b *bytes.Buffer, _ string, body any) error { return EncodeJSON(b, body) }}
	FormatXML  = &Format{"text/xml;charset=utf-8", encodeXML}
)

// formats maps the values of the parameter Format, in upper case, to formats. Requests can use any
// case.
var formats = map[string]*Format{"": FormatJSON, "JSON": FormatJSON, "XML": FormatXML}

// FormatOf returns the format for a value of the parameter Format, in any case. For an unknown
// value it returns FormatJSON: the gateway refuses such a request in JSON.
func FormatOf(name string) *Format {
	if f, ok := formats[strings.ToUpper(name)]; ok {
		return f
	}
	return FormatJSON
}

// CheckFormat returns an InvalidParameter error if the parameter Format is unknown.
func CheckFormat(name string) error {
	if _, ok := formats[strings.ToUpper(name)]; !ok {
		return InvalidParameter("Format", "%q is neither JSON nor XML", Clip(name))
	}
	return nil
}

// EncodeJSON appends body as JSON to b. It does not escape &, < and >, because Alibaba Cloud's older
// Java SDK does not decode \u escapes. An empty list becomes [], a nil list null.
func EncodeJSON(b *bytes.Buffer, body any) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the newline at the end
	return nil
}

// encodeXML appends body to b as an element. That of an ErrorBody is named Error; others have the action's name
// and "Response". Each member becomes an element. A list becomes one element per member,
// so an empty list leaves no trace.
func encodeXML(b *bytes.Buffer, action string, body any) error {
	root := action + "Response"
	if _, ok := body.(ErrorBody); ok {
		root = "Error"
	}
	b.WriteString(xml.Header)
	return xml.NewEncoder(b).EncodeElement(body, xml.StartElement{Name: xml.Name{Local: root}})
}

// Base64 is a byte slice that every Format encodes as standard Base64 with padding.
type Base64 []byte

// MarshalText returns b as standard Base64 with padding.
func (b Base64) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// An ErrorBody is the body of the answer to a failed request. The members that SDKs expect to be
// strings must be strings, because alibaba-cloud-sdk-go panics otherwise.
type ErrorBody struct {
	HttpStatus int
	Code       string
	Message    string
	RequestId  string
	HostId     string
}
