// Package p11 calls a PKCS#11 module. It does not know what the calls are for.
//
// What it guarantees, of every call that it makes:
//
//   - It is safe. If the binding panics or faults on the module's answer, such as an
//     absurd length, the call returns an error and the process lives. A search ends and
//     lists each object once. No two sessions have the same handle, since two goroutines
//     in one session crash the process.
//   - It is timed. [Module.Longest] tells which call has not returned, and for how long:
//     a call cannot be cancelled, and Finalize must not run during it.
//   - Its errors are marked. An error that came out of the module is an [Error], and
//     [Is] finds the PKCS#11 code in it.
//
// Where a module takes one call at a time, see [Module.SetOneAtATime], calls wait for
// each other.
//
// A [Module] is safe for concurrent use, a [Session] is not: it belongs to one goroutine.
// Finalize must not be called while another call is under way, and nothing is called
// on a Session after it.
package p11
