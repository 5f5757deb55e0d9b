// Package gateway serves Alibaba Cloud KMS's API, version 2016-01-20, and the native
// API of KMS instances, dkms-gcs 0.2.
//
// # Several doors, one corridor
//
// A door turns bytes into a call, and the call's answer into bytes. There are four:
// rpc.go and native.go serve the two APIs on one port (http.go tells them apart), admin.go
// serves administrators on this machine, and inprocess.go this process itself. Behind the
// doors all calls take one way (call.go): read, authenticate, look the operation up, charge
// its quota, decode, do, write the audit line, answer. A door knows nothing of operations,
// and the corridor knows nothing of the wire.
//
// An operation is a description (name, quota, time-out, resource: kms.Operations in
// kms/operation.go) and one function, bound together in the table (operations.go). The
// function always has this order: resolve what the parameters name, confirm, do. Resolving
// a key asks policy for it (resolve.go, which asks identity's Decide), and there is no
// other way from an operation to a key: a test over the syntax tree enforces this. A
// change is tried on the records that the call sees before it is confirmed (change.go).
// Confirming is the point of no return, where a dry run stops.
//
// # The rooms beside it
//
//	gateway/kms       the API's vocabulary: operations, requests, answers, errors, ARNs
//	gateway/front     connections: limits, peers, TLS or plain HTTP
//	gateway/acs       what a request claims, and how that is signed
//	gateway/identity  claim → principal, and what a principal may do
//	gateway/limit     how much of the gateway one caller may use
//	gateway/journal   a change of records and its audit line are one transaction
//	gateway/keypair   a key pair's life: made, watched, tested, destroyed
//	gateway/audit     the log
//
// None of them knows this package.
//
// # What is guaranteed
//
//   - No answer leaves before its audit line is on disk; without the line there is no
//     success. Only refusals of unauthenticated callers do not wait for the disk, and
//     beyond a limit they share a line. A change of records and its line are one
//     transaction.
//   - The gateway acts only for authenticated callers whom a policy allows and none denies.
//     It tells whether a key exists only to callers who may use it.
//   - One call sees the records of one moment.
//   - Every request that reaches the handler is answered with the API's own error codes, as
//     JSON, XML or protobuf, panics included.
//   - A backup is of one moment: it has every key pair that its records speak of, and none
//     that they do not.
//   - A request is accepted once. After a restart, one that changed nothing may be accepted
//     once more, within 15 minutes of its time stamp. Requests of the native API
//     carry no nonce, and change nothing.
//
// # Words
//
// KeyId, KeyVersionId, AccessKeyId and RequestId are spelled as KMS spells them. A Claim is
// the identity that a request asserts. A Principal is a caller whose claim was verified: a
// user, an access point, or a local administrator, who acts as the account's root. A stray
// is an object in the token that carries our label but has no record. Users, policies and
// access keys are called what RAM calls them. Client keys, which sign native requests,
// belong to an access point. Its policies are permission policies, and a network rule
// limits the addresses from which they apply.
package gateway
