package kms

// A Response is an operation's answer. Its exported fields are its members.
type Response interface{ SetRequestId(string) }

// A Result is part of every response.
type Result struct{ RequestId string }

// SetRequestId says which request the response belongs to.
func (r *Result) SetRequestId(id string) { r.RequestId = id }

// An EmptyResponse has nothing but a RequestId.
type EmptyResponse struct{ Result }

// A NoRequest has no parameters.
type NoRequest struct{}
