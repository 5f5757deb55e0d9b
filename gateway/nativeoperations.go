package gateway

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
	"github.com/kmsgate/kmsgate/hsm"
)

// A nativeFunc runs an operation on a protobuf body. It replaces the operation's run.
type nativeFunc func(ctx context.Context, c *call, body []byte) (kms.Response, error)

// nativeOperations maps the names of the native API's operations to their functions. None
// of them may change anything: a native request has no nonce, so it can be repeated.
var nativeOperations = map[string]nativeFunc{
	"Sign":           native(nativeSign),
	"Verify":         native(nativeVerify),
	"GetPublicKey":   native(nativeGetPublicKey),
	"GenerateRandom": native(nativeGenerateRandom),
}

type messageOf[T any] interface {
	*T
	proto.Message
}

// native returns a nativeFunc that decodes the body into a Req and calls f.
func native[Req, Resp any, Q messageOf[Req], P messageOf[Resp]](
	f func(ctx context.Context, c *call, req Q) (P, error),
) nativeFunc {
	return func(ctx context.Context, c *call, body []byte) (kms.Response, error) {
		req := Q(new(Req))
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, req); err != nil {
			return nil, kms.ErrInvalidParameter.Because("The body is not a message of this operation.")
		}
		resp, err := f(ctx, c, req)
		if err != nil {
			return nil, err
		}
		return nativeResponse{resp}, nil
	}
}

// The values of MessageType.
const (
	messageRaw    = "RAW"    // the message is hashed here; the default
	messageDigest = "DIGEST" // it is a digest already
)

// nativeMessage returns the message to sign, and its MessageType. Older clients send a
// Digest instead of a Message.
func nativeMessage(digest, text []byte, messageType string) (message, string, error) {
	parameter := "Message"
	if len(digest) > 0 {
		if len(text) > 0 || messageType == messageRaw {
			return message{}, "", kms.InvalidParameter("Digest", "send either it or a Message, and not with MessageType RAW")
		}
		parameter, text, messageType = "Digest", digest, messageDigest
	}
	switch {
	case messageType == "":
		messageType = messageRaw
	case messageType != messageRaw && messageType != messageDigest:
		return message{}, "", kms.InvalidParameter("MessageType", "%q is neither %q nor %q",
			kms.Clip(messageType), messageRaw, messageDigest)
	}
	if len(text) == 0 {
		return message{}, "", kms.MissingParameter("Message")
	}
	return message{parameter, text, messageType == messageRaw}, messageType, nil
}

// nativeSigning is like resolveSigning, for a native request.
func nativeSigning(c *call, keyId, algorithm string, m message) (signing, error) {
	if keyId == "" {
		return signing{}, kms.MissingParameter("KeyId")
	}
	return resolveSigning(c, keyId, c.parameters["KeyVersionId"], algorithm, m)
}

func nativeSign(ctx context.Context, c *call, req *nativepb.SignRequest) (*nativepb.SignResponse, error) {
	m, messageType, err := nativeMessage(req.Digest, req.Message, req.MessageType)
	if err != nil {
		return nil, err
	}
	s, err := nativeSigning(c, req.KeyId, req.Algorithm, m)
	if err != nil {
		return nil, err
	}
	signature, err := makeSignature(ctx, c, s)
	if err != nil {
		return nil, err
	}
	return &nativepb.SignResponse{KeyId: s.version.KeyId, Signature: signature,
		Algorithm: string(s.alg), MessageType: messageType}, nil
}

func nativeVerify(ctx context.Context, c *call, req *nativepb.VerifyRequest) (*nativepb.VerifyResponse, error) {
	m, messageType, err := nativeMessage(req.Digest, req.Message, req.MessageType)
	if err != nil {
		return nil, err
	}
	if len(req.Signature) == 0 {
		return nil, kms.MissingParameter("Signature")
	}
	s, err := nativeSigning(c, req.KeyId, req.Algorithm, m)
	if err != nil {
		return nil, err
	}
	valid, err := verifySignature(ctx, c, s, req.Signature)
	if err != nil {
		return nil, err
	}
	return &nativepb.VerifyResponse{KeyId: s.version.KeyId, Value: valid,
		Algorithm: string(s.alg), MessageType: messageType}, nil
}

func nativeGetPublicKey(
	ctx context.Context, c *call, req *nativepb.GetPublicKeyRequest,
) (*nativepb.GetPublicKeyResponse, error) {
	if req.KeyId == "" {
		return nil, kms.MissingParameter("KeyId")
	}
	version, err := publicKeyVersion(ctx, c, req.KeyId, c.parameters["KeyVersionId"])
	if err != nil {
		return nil, err
	}
	return &nativepb.GetPublicKeyResponse{KeyId: version.KeyId, PublicKey: hsm.PublicKeyPEM(version.Key.Public)}, nil
}

func nativeGenerateRandom(
	ctx context.Context, c *call, req *nativepb.GenerateRandomRequest,
) (*nativepb.GenerateRandomResponse, error) {
	random, err := randomBytes(ctx, c, int(req.Length))
	if err != nil {
		return nil, err
	}
	return &nativepb.GenerateRandomResponse{Random: random}, nil
}
