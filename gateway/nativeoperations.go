package gateway

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
	"github.com/kmsgate/kmsgate/hsm"
)

// A nativeOperation is an operation as it is had through the native door: a row of
// operations, whose quota, class and name it has, and a function that speaks protobuf
// in the place of that row's.
type nativeOperation struct {
	operation string
	run       func(ctx context.Context, c *call) (kms.Response, error)
}

// nativeOperations is the table of all that can be asked for through the native
// door, by the names that it has there. None of them changes anything: there is no
// nonce that would keep a request from being repeated.
var nativeOperations = map[string]nativeOperation{
	"Sign":           native("AsymmetricSign", nativeSign),
	"Verify":         native("AsymmetricVerify", nativeVerify),
	"GetPublicKey":   native("GetPublicKey", nativeGetPublicKey),
	"GenerateRandom": native("GenerateRandom", nativeGenerateRandom),
}

type messageOf[T any] interface {
	*T
	proto.Message
}

// native makes a row of a function: the body is decoded into a Req before it is
// called.
func native[Req, Resp any, Q messageOf[Req], P messageOf[Resp]](operation string, f func(ctx context.Context, c *call, req Q) (P, error)) nativeOperation {
	return nativeOperation{operation, func(ctx context.Context, c *call) (kms.Response, error) {
		body, release, err := c.body()
		if err != nil {
			return nil, err
		}
		defer release()
		req := Q(new(Req))
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, req); err != nil {
			return nil, kms.ErrInvalidParameter.Because("The body is not a message of this operation.")
		}
		resp, err := f(ctx, c, req)
		if err != nil {
			return nil, err
		}
		return nativeResponse{resp}, nil
	}}
}

// The values of MessageType.
const (
	messageRaw    = "RAW"    // the message is hashed here; the default
	messageDigest = "DIGEST" // it is a digest already
)

// nativeMessage gives what is to be signed, and the MessageType. Older clients send
// a Digest in the place of a Message.
func nativeMessage(digest, text []byte, messageType string) (message, string, error) {
	parameter := "Message"
	if len(digest) > 0 {
		if len(text) > 0 || messageType == messageRaw {
			return message{}, "", kms.InvalidParameter("Digest", "it is sent in the place of a Message, not beside one or as RAW")
		}
		parameter, text, messageType = "Digest", digest, messageDigest
	}
	switch {
	case messageType == "":
		messageType = messageRaw
	case messageType != messageRaw && messageType != messageDigest:
		return message{}, "", kms.InvalidParameter("MessageType", "%q is neither %s nor %s", kms.Clip(messageType), messageRaw, messageDigest)
	}
	if len(text) == 0 {
		return message{}, "", kms.MissingParameter("Message")
	}
	return message{parameter, text, messageType == messageRaw}, messageType, nil
}

// nativeSigning is [call.signing] with what a message names.
func (c *call) nativeSigning(keyId, algorithm string, m message) (signing, error) {
	if keyId == "" {
		return signing{}, kms.MissingParameter("KeyId")
	}
	return c.signing(keyId, c.parameters["KeyVersionId"], algorithm, m)
}

func nativeSign(ctx context.Context, c *call, req *nativepb.SignRequest) (*nativepb.SignResponse, error) {
	m, messageType, err := nativeMessage(req.Digest, req.Message, req.MessageType)
	if err != nil {
		return nil, err
	}
	s, err := c.nativeSigning(req.KeyId, req.Algorithm, m)
	if err != nil {
		return nil, err
	}
	signature, err := c.sign(ctx, s)
	if err != nil {
		return nil, err
	}
	return &nativepb.SignResponse{KeyId: s.version.KeyId, Signature: signature, Algorithm: string(s.alg), MessageType: messageType}, nil
}

func nativeVerify(_ context.Context, c *call, req *nativepb.VerifyRequest) (*nativepb.VerifyResponse, error) {
	m, messageType, err := nativeMessage(req.Digest, req.Message, req.MessageType)
	if err != nil {
		return nil, err
	}
	if len(req.Signature) == 0 {
		return nil, kms.MissingParameter("Signature")
	}
	s, err := c.nativeSigning(req.KeyId, req.Algorithm, m)
	if err != nil {
		return nil, err
	}
	valid, err := c.verify(s, req.Signature)
	if err != nil {
		return nil, err
	}
	return &nativepb.VerifyResponse{KeyId: s.version.KeyId, Value: valid, Algorithm: string(s.alg), MessageType: messageType}, nil
}

func nativeGetPublicKey(_ context.Context, c *call, req *nativepb.GetPublicKeyRequest) (*nativepb.GetPublicKeyResponse, error) {
	if req.KeyId == "" {
		return nil, kms.MissingParameter("KeyId")
	}
	version, err := c.publicKey(req.KeyId, c.parameters["KeyVersionId"])
	if err != nil {
		return nil, err
	}
	return &nativepb.GetPublicKeyResponse{KeyId: version.KeyId, PublicKey: hsm.PublicKeyPEM(version.Key.Public)}, nil
}

func nativeGenerateRandom(ctx context.Context, c *call, req *nativepb.GenerateRandomRequest) (*nativepb.GenerateRandomResponse, error) {
	random, err := c.random(ctx, int(req.Length))
	if err != nil {
		return nil, err
	}
	return &nativepb.GenerateRandomResponse{Random: random}, nil
}
