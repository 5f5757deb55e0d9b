package kms

// A Response is the answer to a successful request. Its exported fields are the members of the
// answer.
type Response interface{ SetRequestId(string) }

// A Result is part of every response.
type Result struct{ RequestId string }

// SetRequestId sets the id of the request that the response answers.
func (r *Result) SetRequestId(id string) { r.RequestId = id }

// An EmptyResponse has only a RequestId.
type EmptyResponse struct{ Result }

// A NoRequest is the request of an operation without parameters.
type NoRequest struct{}
