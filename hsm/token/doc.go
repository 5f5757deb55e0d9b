// Package token keeps keys in a PKCS#11 token. It calls the module through
// internal/p11; no other packages link C.
//
// What it guarantees:
//
//   - A private key never leaves the token: it is generated there, sensitive
//     and not extractable, and the token is asked after generation whether it
//     did as it was told.
//   - A handle or a session copy whose signature did not verify is not used again:
//     an [hsm.Route] verifies every signature of a Token, and tells it so. One faulty
//     CRT signature gives an RSA key away, and a handle that the token has given to
//     another object would sign as that. A Token by itself verifies the signatures
//     of its own tests only. Verifying is 3 to 6 % of the work of an RSA signature,
//     36 % on P-256, 13 % on secp256k1 (BenchmarkSign).
//   - Random bytes that leave are not those of a generator that is stuck, as far as
//     that shows: by a block that is like the one before it, or like one that another
//     output began with.
//   - A lost connection is replaced whole, and only when no call is in flight.
//     That is forced: closing sessions or finalizing a module while a C_Sign
//     runs kills the process, and sessions and object handles do not survive
//     what loses them.
//   - A refused PIN is not tried again. Tokens count, and lock.
//
// # Shape
//
// A [Token] has one connection at a time. A connection has a fixed number of
// workers; each is a goroutine that owns one session, since two goroutines in
// one session crash the process. Callers hand a job to a bounded queue and wait
// on their context. All calls into the module are made by workers, and by the
// copier below (or by who connects, before they exist and after they are gone), so
// "nothing is in flight" is "all of them have returned". One more worker with a queue of its
// own does everything that changes the token, one change at a time; one more
// makes the key pairs that take seconds.
//
// Where it is faster, signing goes through session copies of the keys (copies.go).
// They are in a session that one more goroutine owns, the copier.
//
// When a worker meets an error it asks the token for a signature with a canary
// key. If that works, the error is the job's, which gets a second try in a new
// session. If not, the connection is lost: its workers stop, their jobs go back
// to the queue, and the supervisor closes everything and connects anew until
// that succeeds. The queue stays; callers wait for the successor as long as
// their contexts let them.
//
// # Who does what
//
// crypto11 owns the module's life and makes the AES key that seals (on a token
// without AES-GCM an HMAC key seals, which miekg/pkcs11 makes). miekg/pkcs11 does
// the rest: crypto11 logs in without asking how many attempts are left, hides
// object handles (a search costs 1.2 s among 10,000 keys), keeps dead sessions in
// its pool for ever, and knows no secp256k1. crypto11 must be first to open the
// module, because it takes CKR_CRYPTOKI_ALREADY_INITIALIZED for fatal.
//
// The figures were measured on SoftHSM 2.6.1 with two cores.
package token
