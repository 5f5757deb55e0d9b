// Package limit bounds how much of the gateway one caller may use: requests per second
// ([Quotas], [Buckets]), audit lines of callers who cannot authenticate
// ([Unauthenticated]), and memory for large bodies of the native API ([Bodies]). The RPC
// API's bodies, of at most 256 KiB, are read before authentication and not counted.
//
// It guarantees that its own memory is bounded, whatever callers send, and that setting
// the clock back gives nobody an allowance twice. All state is in memory, and is lost when
// the process ends. Everything may be used from any goroutine.
package limit
