package kms

import "fmt"

// ARNs builds the ARNs of one account in one region, spelled as in policies.
type ARNs struct{ RegionId, AccountId string }

// Resource returns the ARN of a KMS resource. The resource is a type and a name: "key/<KeyId>".
func (a ARNs) Resource(resource string) string {
	return fmt.Sprintf("acs:kms:%s:%s:%s", a.RegionId, a.AccountId, resource)
}

// Key returns the ARN of a key. Key("") is the prefix of the ARNs of all keys.
func (a ARNs) Key(keyId string) string { return a.Resource("key/" + keyId) }

// Alias returns the ARN of an alias. The AliasName includes "alias/".
func (a ARNs) Alias(aliasName string) string { return a.Resource(aliasName) }

// Instance returns the ARN of a KMS instance. ARNs call an instance a key store.
func (a ARNs) Instance(instanceId string) string { return a.Resource("keystore/" + instanceId) }

// Root returns the ARN of the owner of the account. Local administrators act as the owner.
func (a ARNs) Root() string { return fmt.Sprintf("acs:ram::%s:root", a.AccountId) }

// User returns the ARN of a user.
func (a ARNs) User(userName string) string {
	return fmt.Sprintf("acs:ram::%s:user/%s", a.AccountId, userName)
}
