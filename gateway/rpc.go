package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// maxBody is the most bytes of a request's body, and of its query.
const maxBody = 256 << 10

// apiVersion is the only version of the API.
const apiVersion = "2016-01-20"

// An rpcDoor is the door of the RPC API. Parameters come in the query, in a form or in both,
// signed with an access key. Answers are JSON or XML.
type rpcDoor struct {
	httpDoor
	format *kms.Format // nil until the parameters are read
}

func (d *rpcDoor) name() kms.Door { return kms.RPC }

func (d *rpcDoor) read(c *call) error {
	if err := d.checkConnection(); err != nil {
		return err
	}
	r := d.ec.Request()
	if len(r.URL.RawQuery) > maxBody { // the SDKs send everything in the query
		return kms.ErrTooLarge.Because("A query may have at most %d bytes.", maxBody)
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if isTooLarge(err) {
		return kms.ErrTooLarge.Because("A body may have at most %d bytes.", maxBody)
	}
	if err != nil {
		return kms.ErrParseRequest.Because("The body ended too early.")
	}
	request, err := acs.NewRequest(r, body)
	if err != nil {
		return err
	}
	d.format = kms.FormatOf(request.Parameter("Format"))
	claim, err := acs.Parse(request)
	if err != nil {
		return err
	}
	d.setClaim(c, claim)
	// The record of a nonce must not keep the whole request in memory.
	c.nonce = &store.Nonce{AccessKeyId: strings.Clone(claim.AccessKeyId), Nonce: strings.Clone(claim.Nonce), Until: claim.Time.Add(identity.TimeWindow)}
	return nil
}

func (d *rpcDoor) authenticate(_ context.Context, c *call) (*identity.Principal, error) {
	return d.server.callers.AccessKey(c.records, d.claim, d.server.config.Now())
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
		return d.write(c, http.StatusOK, c.action+"Response", resp)
	}
	if d.server.config.EchoStringToSign && errors.Is(apiErr, kms.ErrSignatureMismatch) && c.parameters["Password"] == "" {
		// The string is added here and not in the original error, because that is logged. The
		// string is the request's URI in another form, and URIs must not be logged.
		apiErr = apiErr.Because("server string to sign is:%s", d.claim.StringToSign())
	}
	d.setRetryAfter(apiErr)
	body := kms.ErrorBody{HttpStatus: apiErr.Status, Code: apiErr.Code, Message: apiErr.Message,
		RequestId: c.requestId, HostId: kms.Clip(d.ec.Request().Host)}
	return d.write(c, apiErr.Status, "Error", body)
}

func (d *rpcDoor) write(c *call, status int, root string, body any) error {
	format := d.format
	if format == nil { // read failed before it had the parameters
		format = kms.FormatOf(d.ec.QueryParam("Format"))
	}
	text, err := format.Encode(root, body)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	d.ec.Response().Header().Set("X-Acs-Request-Id", c.requestId)
	return d.ec.Blob(status, format.ContentType, text)
}
