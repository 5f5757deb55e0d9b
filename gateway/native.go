package gateway

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"

	"github.com/labstack/echo/v4"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
)

// The door for programs with client keys, who speak the protocol of KMS's Instance
// SDK (dkms-gcs): headers that name the operation, and a body of protobuf.

// nativeVersion is that of every operation in all SDKs.
const nativeVersion = "dkms-gcs-0.2"

// native serves one request of the native API.
func (s *Server) native(ec echo.Context, listener *Listener) error {
	c := s.newCall(nativeDoor, ec.RealIP())
	c.listener = listener
	r := ec.Request()
	resp, err := recovered(func() (kms.Response, error) { return s.serveNative(r, c) })
	resp, api := c.finish(resp, err)
	if api == nil {
		return c.writeNative(ec, http.StatusOK, resp.(nativeResponse).Message)
	}
	return c.writeError(ec, api)
}

func (s *Server) serveNative(r *http.Request, c *call) (kms.Response, error) {
	if err := checkNative(r); err != nil {
		return nil, err
	}
	claim, err := acs.ParseNative(r)
	if err != nil {
		return nil, nativeClaimError(err)
	}
	c.read(claim)
	c.body = func() ([]byte, func(), error) { return c.readNative(r, claim) }
	return c.do(r.Context(), func(c *call) (*identity.Principal, error) {
		return s.callers.ClientKey(r.Context(), c.records, claim, s.Now())
	})
}

func checkNative(r *http.Request) error {
	contentType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.TLS == nil:
		return kms.ErrNeedSsl
	case r.Method != http.MethodPost:
		return kms.ErrHTTPMethod
	case err != nil || contentType != acs.NativeContentType:
		return kms.ErrNativeContentType.Saying("Content-Type %q is unsupported.", kms.Clip(r.Header.Get("Content-Type")))
	case r.ContentLength > limit.MaxNativeBody:
		return errNativeTooLarge
	}
	return nil
}

func nativeClaimError(err error) error {
	param := (*acs.ParamError)(nil)
	switch {
	case errors.As(err, &param):
		return kms.ErrNativeParam.Saying("%s", param)
	case errors.Is(err, acs.ErrParameters):
		return kms.ErrInvalidParameter.Because("%s.", err)
	case errors.Is(err, acs.ErrNoClientKey):
		return kms.ErrMissingParameter.Saying("Parameter x-kms-acccesskeyid does not exist in http header or body.")
	}
	return err
}

// nativeName is what an operation can be called.
var nativeName = regexp.MustCompile(`^[A-Za-z]{1,64}$`)

// nativeOperation looks up what is asked for. From there on it is the operation of
// the RPC API, whatever it is called here.
func (c *call) nativeOperation() (operation, error) {
	if !nativeName.MatchString(c.action) {
		return operation{}, kms.ErrNativeName.Saying("The ApiName %q is invalid.", kms.Clip(c.action))
	}
	if c.claim.Version != nativeVersion {
		return operation{}, kms.ErrNativeVersion.Saying("The ApiVersion %q is invalid.", kms.Clip(c.claim.Version))
	}
	n, ok := nativeOperations[c.action]
	if !ok {
		return operation{}, kms.ErrUnsupportedOperation.Because("%s is not an operation of a signing gateway.", c.action)
	}
	o := operations[n.operation]
	o.run = n.run
	c.action, c.entry.Action = n.operation, n.operation
	return o, nil
}

// A nativeResponse is an answer in protobuf.
type nativeResponse struct{ proto.Message }

func (r nativeResponse) SetRequestId(id string) {
	m := r.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("request_id"), protoreflect.ValueOfString(id))
}

// writeNative answers in protobuf. The version that was used is told in a header,
// where the transfer SDK looks for it.
func (c *call) writeNative(ec echo.Context, status int, m proto.Message) error {
	body, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	if status == http.StatusOK && c.entry.KeyVersionId != "" {
		ec.Response().Header().Set(acs.NativeKeyVersionHeader, c.entry.KeyVersionId)
	}
	return ec.Blob(status, acs.NativeContentType, body)
}

// writeNativeError answers when all of the request has been sent: a client that is
// still sending may never read it.
func (c *call) writeNativeError(ec echo.Context, api *kms.Error) error {
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(nil, ec.Request().Body, limit.MaxNativeBody))
	return c.writeNative(ec, api.Status, &nativepb.Error{StatusCode: int32(api.Status), ErrorCode: api.Code, ErrorMessage: api.Message, RequestId: c.requestId})
}
