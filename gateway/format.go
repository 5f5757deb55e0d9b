package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

// A format is a way to write answers. Content types are spelled as the real
// service spells them: SDKs compare the one of XML to the letter.
type format struct {
	contentType string
	encode      func(root string, body any) ([]byte, error)
}

var (
	formatJSON = &format{"application/json;charset=utf-8", encodeJSON}
	formatXML  = &format{"text/xml;charset=utf-8", encodeXML}
)

// formats are the values of the parameter Format, in upper case; they are taken
// in any.
var formats = map[string]*format{"": formatJSON, "JSON": formatJSON, "XML": formatXML}

// formatOf gives the format that a request asks for, and JSON for one that there
// is not: the answer says so.
func formatOf(name string) *format {
	if f, ok := formats[strings.ToUpper(name)]; ok {
		return f
	}
	return formatJSON
}

func checkFormat(name string) error {
	if _, ok := formats[strings.ToUpper(name)]; !ok {
		return invalidParameter("Format", "%q is neither JSON nor XML", clip(name))
	}
	return nil
}

// encodeJSON leaves &, < and > as they are: the reader of Alibaba Cloud's older
// Java SDK does not know the escape \u.
func encodeJSON(_ string, body any) ([]byte, error) {
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

// base64Bytes are written as standard Base64 with padding, in every format.
type base64Bytes []byte

// MarshalText writes Base64.
func (b base64Bytes) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// answer writes an answer in the call's format.
func (c *call) answer(ec echo.Context, status int, root string, body any) error {
	text, err := c.format.encode(root, body)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	ec.Response().Header().Set("X-Acs-Request-Id", c.requestId)
	return ec.Blob(status, c.format.contentType, text)
}

// An errorBody is what SDKs make their errors of. Where they need strings they
// must get strings: alibaba-cloud-sdk-go panics otherwise.
type errorBody struct {
	HttpStatus int
	Code       string
	Message    string
	RequestId  string
	HostId     string
}

func (c *call) writeError(ec echo.Context, api *Error) error {
	if api.Status == http.StatusTooManyRequests || api.Status == http.StatusServiceUnavailable {
		ec.Response().Header().Set("Retry-After", "1")
	}
	if c.door == nativeDoor {
		return c.writeNativeError(ec, api)
	}
	if c.claim == nil && c.format == formatJSON { // the request was not read that far
		c.format = formatOf(ec.QueryParam("Format"))
	}
	return c.answer(ec, api.Status, "Error", errorBody{api.Status, api.Code, api.Message, c.requestId, clip(ec.Request().Host)})
}
