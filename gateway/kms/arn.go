package kms

// ARNs builds the ARNs of one account in one region, spelled as in policies.
type ARNs struct{ RegionId, AccountId string }

// resource returns the ARN of a KMS resource. Every call needs one, so only the result is allocated.
func (a ARNs) resource(kind, name string) string {
	return "acs:kms:" + a.RegionId + ":" + a.AccountId + ":" + kind + name
}

// Resource returns the ARN of a KMS resource. The resource is a type and a name: "key/<KeyId>".
func (a ARNs) Resource(resource string) string { return a.resource("", resource) }

// Key returns the ARN of a key. Key("") is the prefix of the ARNs of all keys.
func (a ARNs) Key(keyId string) string { return a.resource("key/", keyId) }

// Alias returns the ARN of an alias. The AliasName includes "alias/".
func (a ARNs) Alias(aliasName string) string { return a.Resource(aliasName) }

// Instance returns the ARN of a KMS instance. ARNs call an instance a key store.
func (a ARNs) Instance(instanceId string) string { return a.resource("keystore/", instanceId) }

// Root returns the ARN of the owner of the account. Local administrators act as the owner.
func (a ARNs) Root() string { return "acs:ram::" + a.AccountId + ":root" }

// User returns the ARN of a user.
func (a ARNs) User(userName string) string { return "acs:ram::" + a.AccountId + ":user/" + userName }
