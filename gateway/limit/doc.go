// Package limit bounds how much of the gateway one caller can use: requests per second
// ([Quotas], [Buckets]), audit lines about refusals ([Refusals]), and memory for large bodies of
// the native API ([Bodies]). The bodies of the RPC API, at most 256 KiB each, are read before
// authentication and not counted.
//
// It guarantees that the memory of this package is bounded, whatever callers send, and that
// nobody gets an allowance twice when the clock is set back. All state is in memory, and is
// lost when the process ends. Everything is safe for concurrent use.
package limit
