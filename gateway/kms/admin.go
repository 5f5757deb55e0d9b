package kms

import "errors"

// An AdminRequest is what an administrator's program sends to the admin door, as JSON, in
// the body of a POST to /. The answer is that of the RPC API in JSON, or octets.
type AdminRequest struct {
	Action     string
	Parameters map[string]string
}

// OctetStream is the Content-Type of an answer that is no message.
const OctetStream = "application/octet-stream"

// ErrOctets and ErrNoOctets: an operation that answers with octets was asked for a message,
// or the reverse.
var (
	ErrOctets   = errors.New("the operation answers with octets: Stream takes its answer")
	ErrNoOctets = errors.New("the operation does not answer with octets: Call takes its answer")
)
