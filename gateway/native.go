package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
)

// nativeVersion is the ApiVersion that all SDKs send with every operation.
const nativeVersion = "dkms-gcs-0.2"

// A nativeDoor is the door for programs with client keys. They speak the protocol of KMS's
// Instance SDK (dkms-gcs): headers that name the operation, and a body of protobuf. The
// protocol has no nonces, so no operation of this door changes anything.
type nativeDoor struct{ httpDoor }

func (d *nativeDoor) name() kms.Door { return kms.Native }

func (d *nativeDoor) read(c *call) error {
	if err := d.checkConnection(); err != nil {
		return err
	}
	r := d.ec.Request()
	switch {
	case r.Method != http.MethodPost:
		return kms.ErrHTTPMethod
	case acs.MediaType(r.Header) != acs.NativeContentType:
		return kms.ErrNativeContentType.Saying("Content-Type %q is unsupported.", kms.Clip(r.Header.Get("Content-Type")))
	case r.ContentLength > kms.MaxNativeBody:
		return errNativeTooLarge
	}
	claim, err := acs.ParseNative(r)
	if err != nil {
		return nativeClaimError(err)
	}
	d.setClaim(c, claim)
	c.parameters = claim.Parameters()
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
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	defer d.leave()
	// ClientKey may ask the token, and calls leave before.
	p, err := d.server.callers.ClientKey(ctx, c.records, d.claim, d.server.config.Now(), d.leave)
	if err != nil {
		return nil, err
	}
	d.admit()
	return p, nil
}

// nativeNamePattern is the syntax of an operation's name.
var nativeNamePattern = regexp.MustCompile(`^[A-Za-z]{1,64}$`)

// lookup returns the operation that the call asks for. It also changes the call's action to
// the operation's name in the RPC API, which policies, metrics and the audit log use.
func (d *nativeDoor) lookup(c *call) (operation, error) {
	if !nativeNamePattern.MatchString(c.action) {
		return operation{}, kms.ErrNativeName.Saying("The ApiName %q is invalid.", kms.Clip(c.action))
	}
	if d.claim.Version != nativeVersion {
		return operation{}, kms.ErrNativeVersion.Saying("The ApiVersion %q is invalid.", kms.Clip(d.claim.Version))
	}
	description, ok := kms.FindNative(c.action)
	if !ok {
		return operation{}, kms.ErrUnsupportedOperation.Because("A signing gateway has no operation %q.", c.action)
	}
	do := nativeOperations[c.action]
	o := operation{Operation: description}
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

// answer writes the answer in protobuf. A header names the key version that was used; the
// transfer SDK looks for it there. Before answer sends an error, it reads the rest of the
// request: a client that is still sending may never read the error. From an unknown network, it reads at
// most limit.SmallBody bytes for an unauthenticated caller.
func (d *nativeDoor) answer(c *call, resp kms.Response, apiErr *kms.Error) error {
	if apiErr == nil {
		if c.entry.KeyVersionId != "" {
			d.ec.Response().Header().Set(acs.NativeKeyVersionHeader, c.entry.KeyVersionId)
		}
		return d.write(http.StatusOK, resp.(nativeResponse).Message)
	}
	d.setRetryAfter(apiErr)
	rest := int64(kms.MaxNativeBody)
	if c.principal == nil && !d.known {
		rest = limit.SmallBody
	}
	_, _ = io.CopyN(io.Discard, d.ec.Request().Body, rest)
	return d.write(apiErr.Status, &nativepb.Error{StatusCode: int32(apiErr.Status), ErrorCode: apiErr.Code,
		ErrorMessage: apiErr.Message, RequestId: c.requestId})
}

func (d *nativeDoor) write(status int, m proto.Message) error {
	body, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	d.ec.Response().Header().Set("Content-Length", strconv.Itoa(len(body)))
	return d.ec.Blob(status, acs.NativeContentType, body)
}

// A nativeResponse is an answer in protobuf.
type nativeResponse struct{ proto.Message }

func (r nativeResponse) SetRequestId(id string) {
	m := r.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("request_id"), protoreflect.ValueOfString(id))
}

var errNativeTooLarge = kms.ErrTooLarge.Because("A body may have at most %d bytes.", kms.MaxNativeBody)

// readBody reads a request's body and checks that it is the body that was signed. It runs
// only for authenticated callers within their quota, so that others cannot occupy 3 MB for
// each of their connections. Reading takes as long as the client likes, so readBody
// authenticates the caller again afterwards. If it returns no error, the caller must call
// the function that it returns.
func (d *nativeDoor) readBody(ctx context.Context, c *call) ([]byte, func(), error) {
	r := d.ec.Request()
	n := r.ContentLength
	if n < 0 {
		n = kms.MaxNativeBody
	}
	release := func() {}
	if n > limit.SmallBody {
		name := c.principal.Name
		if !d.server.bodies.Reserve(name, n) {
			return nil, nil, kms.ErrUnavailable.Because("Too many large requests are in progress.")
		}
		release = func() { d.server.bodies.Release(name, n) }
	}
	complete := false
	defer func() {
		if !complete { // deferred, so that a panic releases the bytes, too
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
	complete = true
	return body, release, nil
}

// readSigned reads a body of at most maxBytes and checks it against the claim.
func readSigned(r *http.Request, claim *acs.Claim, maxBytes int64) ([]byte, error) {
	// If the length is known, the buffer never grows.
	body := make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead)
	buffer := bytes.NewBuffer(body)
	_, err := buffer.ReadFrom(http.MaxBytesReader(nil, r.Body, maxBytes))
	body = buffer.Bytes()
	if isTooLarge(err) {
		return nil, errNativeTooLarge
	}
	if err != nil {
		return nil, kms.ErrInvalidParameter.Because("The body ended too early.")
	}
	if !claim.Covers(body) {
		return nil, kms.ErrNativeSignature.Because("The signed content-sha256 does not match the body.")
	}
	return body, nil
}
