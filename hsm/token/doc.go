// Package token keeps keys in a PKCS#11 token. It calls the module through
// internal/p11; no other packages link C.
//
// What it guarantees:
//
//   - A private key never leaves the token. The token generates it, sensitive and not
//     extractable, and the package then checks that it did.
//   - An [hsm.Route] verifies every signature of a Token and reports a wrong one by
//     Quarantine. Then the Token drops the key's session copy, asks for a canary signature,
//     and searches for the key before it signs with it again. By itself a Token verifies only canary signatures,
//     the signatures of a Survey's trials, and the first signature of a new key. Verifying
//     is 3 to 6 % of the work of an RSA signature, 36 % on P-256, 13 % on secp256k1
//     (BenchmarkSign).
//   - Random bytes are withheld if a block repeats the one before it, or the output begins
//     like an earlier one.
//   - A lost connection is replaced as a whole, and only when no call is in flight. There
//     is no choice: closing sessions or finalizing a module while a C_Sign runs kills the
//     process, and sessions and object handles do not survive a loss.
//   - A refused PIN is not tried again. Tokens count failed attempts, then lock.
//
// # Shape
//
// A [Token] has one connection at a time. A connection has a fixed number of workers.
// Each worker is a goroutine that owns one session, since two goroutines in one session
// crash the process. Callers hand a job to a bounded queue and wait on their context.
//
// One more worker, with a queue of its own, makes every change to the token, one at a
// time. One more makes and destroys RSA_4096 key pairs, which take seconds each.
//
// Where it is faster, signing goes through session copies of the keys (copies.go). They
// live in the session of one more goroutine, the copier. Config.NoSessionCopies turns
// them off.
//
// Only workers and the copier call the module. The exceptions are connecting, before they
// exist, and closing, after they have ended. So no call is in flight once all of these
// goroutines have returned.
//
// When a worker meets an error of the module, it asks the token for a signature with a
// canary key. If that works, the error is the job's own, and the job gets a second try in
// a new session. If not, the connection is lost: its workers stop, their jobs go back to
// the queue, and the supervisor closes everything and reconnects until that succeeds.
// The queue stays. Callers wait for the next connection as long as their contexts last.
//
// # The two bindings
//
// crypto11 owns the module's life and makes the AES key that seals. On a token without
// AES-GCM an HMAC key seals, which miekg/pkcs11 makes. miekg/pkcs11 does everything else,
// because crypto11 logs in without asking how many attempts are left, hides object
// handles (a search takes 1.2 s among 10,000 keys), keeps dead sessions in its pool for
// ever, and does not know secp256k1. crypto11 must open the module first, because it
// treats CKR_CRYPTOKI_ALREADY_INITIALIZED as fatal.
//
// The figures were measured on SoftHSM 2.6.1 with two cores.
package token
