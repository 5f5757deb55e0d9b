// Package keypair creates, tests and destroys key pairs, and checks that they are still in the
// token.
//
// Token and database cannot commit together. The order of the steps ensures that they agree even if
// the process is killed at any moment:
//
//   - To create a pair, the package records it as an orphan, has the token make and test it, and
//     deletes the orphan in the transaction that writes its version.
//   - To delete a key, the package deletes all its records at once, which makes its pairs orphans.
//     It deletes each orphan once the token has destroyed the pair.
//
// Every pair therefore belongs to a version or is an orphan, and an orphan found later must be
// destroyed.
//
// The package guarantees that no pair of a recorded version is destroyed, that no pair of a deleted
// key is destroyed while the audit log is known to fail, and that records and token agree while
// they are frozen for a backup. It proves that the backend holds the private half of a recorded
// public key before anyone relies on that public key.
package keypair
