package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
)

// nativeVersion is that of every operation in all SDKs.
const nativeVersion = "dkms-gcs-0.2"

// A nativeDoor is the door for programs with client keys, which speak the protocol of
// KMS's Instance SDK (dkms-gcs): headers that name the operation, and a body of protobuf.
// It has no nonces, so nothing that can be asked for here changes anything.
type nativeDoor struct{ httpDoor }

func (d *nativeDoor) name() kms.Door { return kms.Native }

func (d *nativeDoor) read(c *call) error {
	if err := d.checkConnection(); err != nil {
		return err
	}
	r := d.ec.Request()
	contentType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.Method != http.MethodPost:
		return kms.ErrHTTPMethod
	case err != nil || contentType != acs.NativeContentType:
		return kms.ErrNativeContentType.Saying("Content-Type %q is unsupported.", kms.Clip(r.Header.Get("Content-Type")))
	case r.ContentLength > kms.MaxNativeBody:
		return errNativeTooLarge
	}
	claim, err := acs.ParseNative(r)
	if err != nil {
		return nativeClaimError(err)
	}
	d.take(c, claim)
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

func (d *nativeDoor) authenticate(ctx context.Context, c *call) (*identity.Principal, error) {
	return d.server.callers.ClientKey(ctx, c.records, d.claim, d.server.config.Now())
}

// nativeName is what an operation can be called.
var nativeName = regexp.MustCompile(`^[A-Za-z]{1,64}$`)

// lookup looks up what is asked for. From there on it is the operation of
// the RPC API, whatever it is called here.
func (d *nativeDoor) lookup(c *call) (operation, error) {
	if !nativeName.MatchString(c.action) {
		return operation{}, kms.ErrNativeName.Saying("The ApiName %q is invalid.", kms.Clip(c.action))
	}
	if d.claim.Version != nativeVersion {
		return operation{}, kms.ErrNativeVersion.Saying("The ApiVersion %q is invalid.", kms.Clip(d.claim.Version))
	}
	description, ok := kms.FindNative(c.action)
	if !ok {
		return operation{}, kms.ErrUnsupportedOperation.Because("%s is not an operation of a signing gateway.", c.action)
	}
	do := nativeOperations[c.action]
	o := operation{Operation: description, charges: d.listener.charges(description)}
	o.run = func(ctx context.Context, c *call) (kms.Response, error) {
		body, release, err := d.readBody(ctx, c)
		if err != nil {
			return nil, err
		}
		defer release()
		ctx, cancel := c.operation.limit(ctx)
		defer cancel()
		return do(ctx, c, body)
	}
	c.action, c.entry.Action = o.Name, o.Name
	return o, nil
}

func (d *nativeDoor) errorOf(err error) *kms.Error { return nativeError(err) }

// answer answers in protobuf. The version that was used is told in a header, where the
// transfer SDK looks for it. An error is answered when all of the request has been sent:
// a client that is still sending may never read it.
func (d *nativeDoor) answer(c *call, resp kms.Response, api *kms.Error) error {
	if api == nil {
		if c.entry.KeyVersionId != "" {
			d.ec.Response().Header().Set(acs.NativeKeyVersionHeader, c.entry.KeyVersionId)
		}
		return d.write(http.StatusOK, resp.(nativeResponse).Message)
	}
	d.retryLater(api)
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(nil, d.ec.Request().Body, kms.MaxNativeBody))
	return d.write(api.Status, &nativepb.Error{StatusCode: int32(api.Status), ErrorCode: api.Code, ErrorMessage: api.Message, RequestId: c.requestId})
}

func (d *nativeDoor) write(status int, m proto.Message) error {
	body, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	return d.ec.Blob(status, acs.NativeContentType, body)
}

// A nativeResponse is an answer in protobuf.
type nativeResponse struct{ proto.Message }

func (r nativeResponse) SetRequestId(id string) {
	m := r.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("request_id"), protoreflect.ValueOfString(id))
}

var errNativeTooLarge = kms.ErrTooLarge.Because("A body may have %d bytes.", kms.MaxNativeBody)

// readBody reads a request's body, and believes it if it is the one that was
// signed. It is called for callers only who are known and within their quota: others
// cannot have 3 MB kept for each of their connections. Reading takes as long as the
// client likes, so who asks is asked again. What it returns has to be released.
func (d *nativeDoor) readBody(ctx context.Context, c *call) ([]byte, func(), error) {
	r := d.ec.Request()
	n := r.ContentLength
	if n < 0 {
		n = kms.MaxNativeBody
	}
	release := func() {}
	if n > limit.SmallBody {
		name := c.principal.Name
		if !d.server.bodies.Take(name, n) {
			return nil, nil, kms.ErrUnavailable.Because("Too many large requests are being sent.")
		}
		release = func() { d.server.bodies.Give(name, n) }
	}
	whole := false
	defer func() {
		if !whole { // a panic must not keep the room either
			release()
		}
	}()
	body, err := readSigned(r, d.claim, c.operation.Native.MaxBody)
	if err != nil {
		return nil, nil, err
	}
	if err := c.authenticate(ctx); err != nil {
		return nil, nil, err
	}
	whole = true
	return body, release, nil
}

func readSigned(r *http.Request, claim *acs.Claim, most int64) ([]byte, error) {
	body := make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead) // no more than that, if it is known
	buffer := bytes.NewBuffer(body)
	_, err := buffer.ReadFrom(http.MaxBytesReader(nil, r.Body, most))
	body = buffer.Bytes()
	if tooLarge(err) {
		return nil, errNativeTooLarge
	}
	if err != nil {
		return nil, kms.ErrInvalidParameter.Because("The body ended too early.")
	}
	if !claim.Covers(body) {
		return nil, kms.ErrNativeSignature.Because("The content-sha256 that was signed is not that of the body.")
	}
	return body, nil
}
