// Package gateway serves Alibaba Cloud KMS's API, version 2016-01-20, and the native
// API of KMS instances, dkms-gcs 0.2.
//
// # Doors and the corridor
//
// A request enters through a door. The door turns bytes into a call, and the call's
// answer back into bytes. The gateway has four doors:
//
//   - rpc.go serves the RPC API.
//   - native.go serves the native API on the same port. http.go tells the two APIs apart.
//   - admin.go serves administrators on this machine.
//   - inprocess.go serves this process itself.
//
// Behind the doors, every call takes the same path, the corridor (call.go). The corridor
// reads the request, authenticates the caller, looks the operation up, charges a quota, whether
// or not the operation exists, decodes its parameters, runs it, writes the audit line, and
// answers (release.go). A door knows nothing of operations, and the corridor knows nothing of the wire.
//
// # Operations
//
// An operation is a description and a function. The description has the operation's name,
// quota, time-out and resource (kms.Operations in kms/operation.go). The table in
// operations.go binds the function to it. Every function works in this order:
//
//  1. It resolves what the parameters name. Resolving a key checks the policies for it
//     (resolve.go, which calls identity's Decide). An operation cannot reach a key in any
//     other way; a test over the syntax tree enforces this.
//  2. It confirms, which is the point of no return. A dry run stops here. A change is
//     first tried on the records that the call sees (change.go).
//  3. It acts: it signs, writes the change, or builds its answer.
//
// # Packages below this one
//
// None of them imports this package.
//
//	gateway/kms       the API's vocabulary: operations, requests, answers, errors, ARNs
//	gateway/front     connections: limits, peers, TLS or plain HTTP
//	gateway/acs       what a request claims, and how the claim is signed
//	gateway/identity  from a claim to a principal, and what a principal may do
//	gateway/limit     how much of the gateway one caller may use
//	gateway/journal   a change of records and its audit line as one transaction
//	gateway/clock     whether this machine's clock can be believed
//	gateway/keypair   key pairs: creating, watching, testing and destroying them
//	gateway/audit     the audit log
//
// # Guarantees
//
//   - No answer leaves before its audit line is on disk. If the line cannot be written, the
//     answer is an error. Refusals over the network are the exception: they carry no signature
//     and change nothing. Beyond a limit, those of one caller with one code share a line, and
//     they do not wait for it. Those of unauthenticated callers never wait for the disk.
//   - No caller over the network fills the disk of the audit log: every authenticated request
//     is charged to a quota, and the rest of the disk is kept for administrators.
//   - A change of records and its audit line are one transaction.
//   - A disk that is full, fails or hangs needs no restart. While the records cannot be written, the
//     gateway signs.
//   - A key is deleted only while this machine's clock can be believed.
//   - The gateway acts only for authenticated callers. A policy must allow the action, and
//     none may deny it. Only callers who may use a key learn whether it exists.
//   - A call sees the records of one moment. An answer that was made with a key leaves only if the
//     key may be used at that moment, too: none follows the answer to DisableKey.
//   - The gateway answers with a public key, or with what it verified, only after the token has
//     proven that it holds the private key.
//   - The gateway answers every request that reaches the handler, even after a panic. Errors
//     have the API's own codes, as JSON, XML or protobuf.
//   - A backup shows one moment. It has every key pair that its records refer to, and no
//     other.
//   - The gateway accepts a request once. After a restart it may accept it once more,
//     within 15 minutes of its time stamp, if the request changed nothing. Requests of the
//     native API carry no nonce and change nothing.
//
// # Words
//
// KeyId, KeyVersionId, AccessKeyId and RequestId are spelled as KMS spells them. Users, RAM
// policies and access keys have the names that RAM uses.
//
//   - A Claim is the identity that a request asserts.
//   - A Principal is a caller whose claim was verified: a user, an access point, or a local
//     administrator, who acts as the account's root.
//   - A client key signs native requests and belongs to an access point. The policies of an
//     access point are permission policies. A network rule limits the addresses from which
//     a permission policy applies.
//   - A stray is an object in the token that carries our label but has no record.
package gateway
