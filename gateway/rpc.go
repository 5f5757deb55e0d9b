package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// maxBody is the most bytes of a request's body, and of its query.
const maxBody = 256 << 10

// apiVersion is the only version of the API.
const apiVersion = "2016-01-20"

// An rpcDoor is the door of the RPC API. Parameters come in the query, in a form or in both,
// signed with an access key. Answers are JSON or XML.
type rpcDoor struct {
	httpDoor
	head *acs.Head // nil until it is read
	body string
}

func (d *rpcDoor) name() kms.Door { return kms.RPC }

// read refuses what can be refused before the body is read, and reads the body. It does not
// parse the parameters: authenticate does, in a slot of the gate.
func (d *rpcDoor) read(c *call) error {
	if err := d.checkConnection(); err != nil {
		return err
	}
	r := d.ec.Request()
	if len(r.URL.RawQuery) > maxBody { // the SDKs send everything in the query
		return kms.ErrTooLarge.Because("A query may have at most %d bytes.", maxBody)
	}
	var err error
	if d.head, err = acs.ReadHead(r); err != nil {
		return err
	}
	if err := d.checkHead(c); err != nil {
		return err
	}
	if d.body, err = d.readBody(); err != nil {
		return err
	}
	if d.head.AccessKeyId == "" {
		d.head.Scan(d.body)
		return d.checkHead(c)
	}
	return nil
}

// checkHead refuses a request whose time stamp or access key is not valid, as far as the head
// has them. Nothing of a request that passes is verified.
func (d *rpcDoor) checkHead(c *call) error {
	h := d.head
	if h.AccessKeyId == "" {
		return nil
	}
	access, unknown := identity.ActiveAccessKey(c.records, h.AccessKeyId)
	c.entry.AccessKeyId = access.AccessKeyId // so that the request does not stay in memory
	setClaimed(c, h.Protocol, h.AccessKeyId, h.Action)
	if h.Time != nil {
		if err := identity.CheckTime(*h.Time, d.server.config.Now()); err != nil {
			return err
		}
	}
	return unknown
}

var errTooLarge = kms.ErrTooLarge.Because("A body may have at most %d bytes.", maxBody)

// readBody reads the body, which takes as long as the client likes. It counts the request's
// bytes until the request ends.
func (d *rpcDoor) readBody() (string, error) {
	r := d.ec.Request()
	n := r.ContentLength
	if n > maxBody {
		// A client that is still sending may never read the answer.
		_, _ = io.CopyN(io.Discard, r.Body, maxBody+1)
		return "", errTooLarge
	}
	if err := d.reserve(int64(len(r.URL.RawQuery)) + max(n, 0)); err != nil || n == 0 {
		return "", err
	}
	if n < 0 {
		return d.readChunked()
	}
	var body strings.Builder
	body.Grow(int(n))
	_, err := io.CopyBuffer(&body, r.Body, make([]byte, min(n, 8<<10)))
	return body.String(), readError(err)
}

// readChunked reads a body of unknown length. It reserves two bytes for each that has arrived: one for the byte
// and one for its copy.
func (d *rpcDoor) readChunked() (string, error) {
	const block = 4 << 10
	arriving := http.MaxBytesReader(nil, d.ec.Request().Body, maxBody)
	var blocks [][]byte
	for err := error(nil); !errors.Is(err, io.EOF); {
		b := bytes.NewBuffer(make([]byte, 0, block+bytes.MinRead))
		var n int64
		n, err = io.CopyN(b, arriving, block)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", readError(err)
		}
		if err := d.reserve(2 * n); err != nil {
			return "", err
		}
		blocks = append(blocks, b.Bytes())
	}
	var body strings.Builder
	body.Grow(len(blocks) * block)
	for _, b := range blocks {
		body.Write(b)
	}
	return body.String(), nil
}

// readError returns the API error for an error of reading a body, or nil if err is nil.
func readError(err error) error {
	switch {
	case err == nil:
		return nil
	case isTooLarge(err):
		return errTooLarge
	}
	return kms.ErrParseRequest.Because("The body ended too early.")
}

func (d *rpcDoor) authenticate(ctx context.Context, c *call) (*identity.Principal, error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	defer d.leave()
	claim, err := d.head.Claim(d.body)
	if err != nil {
		return nil, err
	}
	d.setClaim(c, claim)
	p, err := d.server.callers.AccessKey(c.records, claim, d.server.config.Now())
	if err != nil {
		return nil, err
	}
	d.admit()
	c.parameters = claim.Parameters()
	c.nonce = claim
	return p, nil
}

func (d *rpcDoor) lookup(c *call) (operation, error) {
	if c.action == "" {
		return operation{}, kms.MissingParameter("Action")
	}
	if d.claim.Version != apiVersion {
		return operation{}, kms.ErrApiNotFound.Because("The only version is %q.", apiVersion)
	}
	o, err := lookup(c.action, func(o operation) bool { return o.Door == kms.RPC })
	if err != nil {
		return operation{}, err
	}
	if d.listener.BusinessOnly && !o.Business {
		return operation{}, kms.ErrUnsupportedOperation.Because(
			"This endpoint serves only business operations; %q is not one.", c.action)
	}
	return o, nil
}

// lookup returns an operation by its name, if the door admits it.
func lookup(action string, admits func(o operation) bool) (operation, error) {
	if o, ok := operations[action]; ok && admits(o) {
		return o, nil
	}
	if kms.IsUnsupported(action) {
		return operation{}, kms.ErrUnsupportedOperation.Because("A signing gateway has no operation %q.", action)
	}
	return operation{}, kms.ErrApiNotFound
}

func (d *rpcDoor) errorOf(err error) *kms.Error { return apiError(err) }

func (d *rpcDoor) answer(c *call, resp kms.Response, apiErr *kms.Error) error {
	if apiErr == nil {
		return d.write(c, http.StatusOK, resp)
	}
	if d.server.config.EchoStringToSign && errors.Is(apiErr, kms.ErrSignatureMismatch) && d.claim.Parameters()["Password"] == "" {
		// The string is added here and not in the original error, because that is logged. The
		// string is the request's URI in another form, and URIs must not be logged.
		apiErr = apiErr.Because("server string to sign is:%s", d.claim.StringToSign())
	}
	d.setRetryAfter(apiErr)
	body := kms.ErrorBody{HttpStatus: apiErr.Status, Code: apiErr.Code, Message: apiErr.Message,
		RequestId: c.requestId, HostId: kms.Clip(d.ec.Request().Host)}
	return d.write(c, apiErr.Status, body)
}

func (d *rpcDoor) write(c *call, status int, body any) error {
	format := d.format(c)
	text := answers.Get().(*bytes.Buffer)
	defer putAnswer(text)
	if err := format.Encode(text, c.action, body); err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	// One allocation holds all values. Header.Set would make one for each.
	values := []string{c.requestId, strconv.Itoa(text.Len()), format.ContentType}
	header := d.ec.Response().Header()
	header["X-Acs-Request-Id"], header["Content-Length"], header["Content-Type"] = values[0:1:1], values[1:2:2], values[2:3:3]
	return d.ec.Blob(status, format.ContentType, text.Bytes())
}

// answers are empty buffers for the texts of answers. Only the connection gets a text. It has copied the
// text when Blob returns, because the listeners serve HTTP/1 only. They save two allocations.
var answers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// putAnswer returns a buffer to answers, unless it is so large that it should not stay in memory.
func putAnswer(text *bytes.Buffer) {
	if text.Cap() <= 64<<10 {
		text.Reset()
		answers.Put(text)
	}
}

// format returns the format that the request asks for. Before the parameters are parsed, it
// looks for the first parameter of that name.
func (d *rpcDoor) format(c *call) *kms.Format {
	if c.parameters != nil {
		return kms.FormatOf(c.parameters["Format"])
	}
	query := d.ec.Request().URL.RawQuery
	return kms.FormatOf(cmp.Or(acs.Find(query, "Format"), acs.Find(d.body, "Format")))
}
