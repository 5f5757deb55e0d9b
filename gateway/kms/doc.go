// Package kms is the vocabulary of the API: the operations, requests, responses and errors,
// declared once for the server, the command line and the tests.
//
// The request and the response of operation X are XRequest and XResponse. Their fields have the
// names of the API. [Decode] fills a request from parameters; [FormatOf] returns the format of a
// response, JSON or XML. The answer to a failed request is an [Error], whose Code is spelled as
// KMS, RAM or the API gateway in front of KMS spells it.
//
// Each request is declared in the file of its subject. The tags of its fields state their limits
// (see [Parameter]).
//
// The package guarantees that the server, the command line and the tests use the same names and
// the same order of members. It holds no state and does not depend on records, tokens or callers.
package kms
