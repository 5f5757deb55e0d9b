// Package kms is the API's vocabulary: the operations, requests, responses and errors,
// declared once for the server, the command line and the tests.
//
// The request and the response of operation X are XRequest and XResponse. Their
// fields have the API's names. [Decode] fills a request from parameters; [FormatOf]
// returns the format of a response, JSON or XML. A failed request is answered with an
// [Error], whose Code is spelled as KMS, RAM or the gateway in front of KMS spells it.
//
// A request is declared in the file of what it is about; the tags of its fields state
// their limits (see [Parameter]).
//
// The package guarantees that the server, the command line and the tests use the same names
// and the same order of members. It holds no state, and knows nothing of records, tokens
// or callers.
package kms
