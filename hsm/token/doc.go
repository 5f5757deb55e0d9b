// Package token keeps keys in a PKCS#11 token. It calls the module through
// internal/p11; no other packages link C.
//
// What it guarantees:
//
//   - A private key never leaves the token. The token generates it as sensitive and not
//     extractable, and the package then checks these attributes. The exception is Import, for
//     tests: the token then reports that the key was outside.
//   - The audit log's key has a separate label, or was reserved. Token.Sign never finds it, and
//     Token.Audit finds no other.
//   - An [hsm.Route] verifies every signature of a Token and reports a wrong one by
//     Quarantine. Then the Token drops the key's session copy, requests a canary signature,
//     and searches for the key before it signs with it again. Without a Route, a Token
//     verifies only canary signatures, the signatures of a Survey's trials, and the first
//     signature of a new key. Verifying is 3 to 6 % of the work of an RSA signature, 36 % on
//     P-256, 13 % on secp256k1 (BenchmarkSign).
//   - Random bytes are withheld if a block repeats the one before it, or if the output begins
//     like an earlier one.
//   - A lost connection is replaced as a whole, and only when no call is in flight. Both are
//     necessary: closing sessions or finalizing a module while a C_Sign runs kills the
//     process, and sessions and object handles do not survive a loss.
//   - A PIN that the token has refused is not tried again before a good login, not even by a
//     later process (Config.RefusedPINFile). Tokens count failed attempts and then lock. After a
//     loss, the PIN that worked is used again; pin.go decides.
//
// # Structure
//
// A [Token] has one connection at a time. A connection has a fixed number of workers.
// Each worker is a goroutine that owns one session, since two goroutines in one session
// crash the process. Callers put a job into a bounded queue and wait until it is done or
// their context ends.
//
// One more worker, with a separate queue, makes every change to the token, one at a time. The
// exception is RSA_4096 key pairs, which take seconds each: another worker, also with a
// separate queue, makes and destroys them.
//
// The last two workers only make canary signatures, for the watchdog (watch.go). The watchdog ends the
// process if a call does not return and a canary signature does not return either. It also finds out
// whether the module signs while it makes a key (overlap.go). If it does not, signatures fail at once
// when a key takes longer than longCall.
//
// If that is faster, keys sign through session copies (copies.go). The copies live in the
// session of one more goroutine, the copier. Config.NoSessionCopies turns them off.
//
// Only workers and the copier call the module. The exceptions are connecting, before they
// exist, and closing, after they have ended. So no call is in flight once all of these
// goroutines have returned.
//
// After an error of the module, a worker requests a signature with a canary key. If that
// works, the error concerns the job only, and the job gets a second try in a new session.
// If not, the connection is lost: its workers stop and return their jobs to the queue, and
// the supervisor closes everything and reconnects until that succeeds. The queue persists.
// Callers wait for the next connection until their contexts end. While the supervisor waits for
// another PIN, it fails their jobs instead.
//
// # The two bindings
//
// crypto11 initializes and finalizes the module and makes the AES sealing key. On a token
// without AES-GCM, the sealing key is an HMAC key, which miekg/pkcs11 makes. miekg/pkcs11 does
// everything else, because crypto11 logs in without checking how many attempts are left, hides
// object handles (a search takes 1.2 s among 10,000 keys), keeps dead sessions in its pool
// forever, and does not support secp256k1. crypto11 must open the module first, because it
// treats CKR_CRYPTOKI_ALREADY_INITIALIZED as fatal.
//
// The figures were measured on SoftHSM 2.6.1 with two cores.
package token
