// Package identity authenticates callers and authorises them: it turns the claim of a
// request into a [Principal], and evaluates policies.
//
// It guarantees that
//
//   - a Principal exists only for an authenticated caller: the caller signed with an access
//     key's secret and an unused nonce, or with a client key, or is a local administrator
//     that the kernel identified;
//   - an unauthenticated caller cannot make the token do anything: secrets are unsealed
//     when a [Registry] is opened, and a client key's record only after its signature was
//     verified;
//   - only records that the gateway wrote are credentials: the token seals secrets and
//     client keys. A secret is bound to its AccessKeyId, and a client key to its id, access
//     point, validity and certificate;
//   - a request is denied if no policy allows it, or if a policy denies it.
//
// The package reads records. It writes only when an access key was last used.
package identity
