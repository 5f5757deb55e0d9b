// Package keypair is the life of a key pair: it is made, watched, tested, and destroyed.
//
// Token and database cannot commit together. What makes the two agree after a kill at any
// moment is the order: a pair that is going to be made is recorded as an orphan, it is made
// and tested, and the transaction that writes its version removes the orphan. A key is
// deleted by its records first, all at once; its pairs are orphans then, until the token has
// destroyed them. So an orphan that is found later is to be destroyed, and there is no other
// way for a pair to be.
//
// The package guarantees that no pair of a recorded version is destroyed, that nothing is
// destroyed while the audit log cannot be written, and that records and token belong
// together while they are frozen for a backup.
package keypair
