// Package gateway serves Alibaba Cloud KMS's API, version 2016-01-20, and the native
// API of KMS instances, dkms-gcs 0.2.
//
// # Several doors, one corridor
//
// A door turns bytes into a call and an answer into bytes: rpc.go is the door
// for HTTPS, native.go the one for programs with client keys, on the same port,
// admin.go the one for administrators on this machine, local.go the
// one for this process itself. Behind the doors all
// calls go one way (call.go): authenticate, look the action up in the table of
// operations, charge its quota, decode, do, write the audit line, answer.
//
// An operation is one row of the table (operations.go) and one function, always
// in this order: resolve what the parameters name, commit, do. Resolving a key
// is also asking policy for it: there is no other way from an operation to a
// record than [call.key]. Commit is the point of no return, at which a dry run
// turns round.
//
// # What is guaranteed
//
//   - No answer leaves before its audit line is on disk; without the line there
//     is no success. Only the refusal of a caller who could not say who it is
//     does not wait for the disk, and when there are too many of them they share
//     a line. A change of records and its line are one transaction.
//   - Nothing is signed, changed or shown but for a caller who proved who it is
//     and whom a policy, of its own or of the key, allows it and none denies it. Whether a key exists is told only to callers
//     who may use it.
//   - Every request that reaches the handler is answered with the API's own
//     error codes, as JSON, XML or protobuf, panics included.
//   - A backup is of one moment: it has every key pair that its records speak of,
//     and none that they do not.
//   - A request is accepted once; after a restart, one that changed nothing may
//     be accepted once more, within 15 minutes of its time stamp. Requests of the
//     native API have nothing to tell them apart by, and change nothing.
//
// # Words
//
// KeyId, KeyVersionId, AccessKeyId and RequestId are spelled as KMS spells
// them. A Claim is who a request says it is from; a principal is a caller whose
// claim was verified: a user, an access point, or a local administrator, who acts
// as the account's root. Strangers are callers who could not say who they are. A stray is
// an object of ours in the token that no record speaks of. Users, policies and
// access keys are called what RAM calls them. An access point is what client keys,
// with which native requests are signed, belong to; its policies, which KMS calls just
// that, are permission policies here, and a network rule says where from they hold.
package gateway
