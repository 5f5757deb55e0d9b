// Package keypair makes key pairs, checks that they are still there, tests them, and
// destroys them.
//
// Token and database cannot commit together. The order of steps makes them agree after a
// kill at any moment:
//
//   - To create a pair, the package records it as an orphan, has the token make and test
//     it, and removes the orphan in the transaction that writes its version.
//   - To delete a key, the package deletes all its records at once, which makes its pairs
//     orphans, and removes each orphan once the token has destroyed the pair.
//
// So an orphan found later must be destroyed, and every pair belongs to a version or is an
// orphan.
//
// The package guarantees that no pair of a recorded version is destroyed, that no pair of a
// deleted key is destroyed while the audit log is known to fail, and that records and token
// agree while they are frozen for a backup.
package keypair
