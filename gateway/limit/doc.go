// Package limit bounds how much one caller can take from the others:
// requests per second ([Quotas], [Buckets]), audit lines of callers who cannot
// authenticate ([Unauthenticated]), and memory for large bodies ([Bodies]).
//
// It guarantees that its own memory has a bound, whatever callers send, and that nobody
// gets anything twice when the clock is set back. All state is in memory, and is lost when
// the process ends. Everything may be used from any goroutine.
package limit
