// Package identity authenticates callers and authorises them: it turns the claim of a
// request into a [Principal], and evaluates policies.
//
// It guarantees that
//
//   - a Principal exists only for an authenticated caller: one who signed with an access
//     key's secret and an unused nonce, or with a client key. The kernel identifies a local
//     administrator;
//   - an unauthenticated caller cannot make the token do anything: secrets are unsealed
//     when a [Registry] is opened, and the records of client keys after their signature;
//   - only records that the gateway wrote are credentials: the token seals secrets and
//     client keys, bound to everything that their record says;
//   - a request that no policy allows, or that one denies, is denied.
//
// It reads records. The only one that it changes is when an access key was last used.
package identity
