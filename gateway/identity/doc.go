// Package identity says who a caller is and what the caller may do: it makes a
// [Principal] of a request's claim, and decides by policies.
//
// It guarantees that
//
//   - there is a Principal only for a caller who proved who they are: by an access key's
//     secret and a nonce that was not used, or by a client key's signature. A local
//     administrator is known by the kernel;
//   - an unauthenticated caller cannot make the token do anything: secrets are unsealed
//     when a [Registry] is opened, and the records of client keys after their signature;
//   - a record of a credential that was not made by the gateway is none: secrets and
//     client keys are sealed by the token, bound to all that their record says;
//   - what no policy allows is denied, and what one denies is denied.
//
// It reads records and changes none, except when an access key was used last.
package identity
