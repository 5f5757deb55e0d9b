// Package limit says how much one caller may take from the others, in one place:
// requests per second ([Quotas], [Buckets]), audit lines of callers who cannot
// authenticate ([Unauthenticated]), and memory for large bodies ([Bodies]).
//
// It guarantees that what it holds has a bound whatever callers send, and that a clock
// that is set back gives nobody anything twice. All of it is in memory and may be used
// from any goroutine.
package limit
