// Package p11 calls a PKCS#11 module. It does not know the purpose of the calls.
//
// What it guarantees for every call:
//
//   - It is safe. If the binding panics or faults on the module's answer, such as an
//     absurd length, the call returns an error and the process survives. A search ends and
//     lists each object once. No two sessions have the same handle, since two goroutines
//     in one session crash the process.
//   - It has an age. [Module.InFlight] returns the calls in flight and [Module.Age] makes them
//     older, since a call cannot be cancelled and Finalize must not run during it.
//   - Its errors are marked. An error from the module is an [Error], and [Is] finds the
//     PKCS#11 code in it.
//
// If a module accepts one call at a time (see [Module.SetOneAtATime]), calls wait for
// each other.
//
// A [Module] is safe for concurrent use. A [Session] is not: it belongs to one goroutine.
// Finalize must not be called while another call is in flight, and no method of a Session
// may be called after it.
package p11
