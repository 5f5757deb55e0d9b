// Package limit bounds how much of the gateway one caller can use: requests per second
// ([Quotas], [Buckets]), audit lines about refusals ([Refusals]), memory for large requests
// ([Bodies]), and CPU time before authentication ([Gate]). Strangers are counted by
// network, and apart from the networks from which callers authenticated a short while ago
// ([Known]).
//
// It guarantees that the memory of this package is bounded, whatever callers send, and that
// nobody gets an allowance twice when the clock is set back. All state is in memory, and is
// lost when the process ends. Everything is safe for concurrent use.
package limit
