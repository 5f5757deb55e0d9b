package kms

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"strings"
)

// A Format is a way to write answers. Content types are spelled as the real
// service spells them: SDKs compare the one of XML to the letter.
type Format struct {
	ContentType string
	Encode      func(root string, body any) ([]byte, error)
}

// The two formats.
var (
	FormatJSON = &Format{"application/json;charset=utf-8", EncodeJSON}
	FormatXML  = &Format{"text/xml;charset=utf-8", encodeXML}
)

// formats are the values of the parameter Format, in upper case; they are taken
// in any.
var formats = map[string]*Format{"": FormatJSON, "JSON": FormatJSON, "XML": FormatXML}

// FormatOf gives the format that a request asks for, and JSON for one that there
// is not: the answer says so.
func FormatOf(name string) *Format {
	if f, ok := formats[strings.ToUpper(name)]; ok {
		return f
	}
	return FormatJSON
}

func CheckFormat(name string) error {
	if _, ok := formats[strings.ToUpper(name)]; !ok {
		return InvalidParameter("Format", "%q is neither JSON nor XML", Clip(name))
	}
	return nil
}

// EncodeJSON leaves &, < and > as they are: the reader of Alibaba Cloud's older
// Java SDK does not know the escape \u.
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

// Base64 are bytes, written as standard Base64 with padding, in every format.
type Base64 []byte

// MarshalText writes Base64.
func (b Base64) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// An ErrorBody is what SDKs make their errors of. Where they need strings they
// must get strings: alibaba-cloud-sdk-go panics otherwise.
type ErrorBody struct {
	HttpStatus int
	Code       string
	Message    string
	RequestId  string
	HostId     string
}
