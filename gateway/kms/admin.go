package kms

import "errors"

// An AdminRequest is a request to the admin door, sent as JSON in the body of a POST to /. The
// answer is that of the RPC API in JSON, or octets.
type AdminRequest struct {
	Action     string
	Parameters map[string]string
	// OnBehalfOf is a user whose policies and quotas apply to the request, instead of those of
	// the local administrator. AsymmetricSign needs it, or AsAdministrator.
	OnBehalfOf string `json:",omitempty"`
	// AsAdministrator lets AsymmetricSign sign under no policy but that of the key.
	AsAdministrator bool `json:",omitempty"`
	// Reference is text for the request's audit line, of at most MaxReference characters, such as
	// the line of a batch.
	Reference string `json:",omitempty"`
}

// MaxReference is the longest AdminRequest.Reference, in characters.
const MaxReference = 128

// InstanceHeader is the header of every answer of the admin door with the InstanceId of its gateway.
// A client that expects a certain gateway sends a HEAD to / first, which holds nothing.
const InstanceHeader = "X-Kmsgate-Instance"

// OctetStream is the Content-Type of an answer that consists of octets instead of a message.
const OctetStream = "application/octet-stream"

// ErrNoAnswer means that the gateway took a request and gave no answer that can be read.
var ErrNoAnswer = errors.New("the gateway gave no answer, and may have carried out the operation")

// The errors for a caller that expects the wrong kind of answer: ErrOctets if the operation
// answers with octets instead of a message, ErrNoOctets if it is the reverse.
var (
	ErrOctets   = errors.New("the operation answers with octets (use Stream instead of Call)")
	ErrNoOctets = errors.New("the operation answers with a message (use Call instead of Stream)")
)
