package kms

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"strings"
)

// A Format is a way to write responses. Content types are spelled as the real service spells
// them: SDKs compare that of XML to the letter.
type Format struct {
	ContentType string
	Encode      func(root string, body any) ([]byte, error)
}

// The formats of responses.
var (
	FormatJSON = &Format{"application/json;charset=utf-8", EncodeJSON}
	FormatXML  = &Format{"text/xml;charset=utf-8", encodeXML}
)

// formats are the values of the parameter Format, in upper case; they are taken
// in any.
var formats = map[string]*Format{"": FormatJSON, "JSON": FormatJSON, "XML": FormatXML}

// FormatOf returns the format that a request asks for in the parameter Format, in any case.
// For an unknown format it returns FormatJSON, in which the request is refused.
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

// EncodeJSON encodes body as JSON. It leaves &, < and > as they are: Alibaba Cloud's older
// Java SDK does not know the escape \u. An empty list is [], a nil one is null.
func EncodeJSON(_ string, body any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

// encodeXML writes members as elements; a list is its element repeated, so an
// empty one is none. The root is the operation's name and "Response", or Error.
func encodeXML(root string, body any) ([]byte, error) {
	var b strings.Builder
	b.WriteString(xml.Header)
	if err := xml.NewEncoder(&b).EncodeElement(body, xml.StartElement{Name: xml.Name{Local: root}}); err != nil {
		return nil, err
	}
	return []byte(b.String()), nil
}

// Base64 is a byte slice that every format writes as standard Base64 with padding.
type Base64 []byte

// MarshalText returns b as standard Base64 with padding.
func (b Base64) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// An ErrorBody is the body of an answer to a failed request. SDKs read it; where they expect
// strings they must get strings, because alibaba-cloud-sdk-go panics otherwise.
type ErrorBody struct {
	HttpStatus int
	Code       string
	Message    string
	RequestId  string
	HostId     string
}
