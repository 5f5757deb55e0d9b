package store

import (
	"time"

	"github.com/kmsgate/kmsgate/hsm"
)

// An Instance says which KMS instance the database is of.
type Instance struct {
	InstanceId string
	RegionId   string
	AccountId  string
}

// The states of a key, spelled as the API spells them.
const (
	Enabled         = "Enabled"
	Disabled        = "Disabled"
	PendingDeletion = "PendingDeletion"
	PendingImport   = "PendingImport"
	Unavailable     = "Unavailable"
)

// A Key is a KMS key (CMK). Fields that the API shows have the API's names.
type Key struct {
	KeyId           string
	KeySpec         hsm.KeySpec
	KeyUsage        string
	KeyState        string
	Origin          string
	ProtectionLevel string
	Description     string
	Creator         string
	CreationDate    time.Time
	DeleteDate      time.Time // zero unless KeyState is PendingDeletion
	Tags            map[string]string
	Policy          string // the key policy, a JSON document; empty for none
}

// A KeyVersion is one key pair of a Key.
type KeyVersion struct {
	KeyId        string
	KeyVersionId string
	CreationDate time.Time
	Key          hsm.Key
}

// An Alias names a key. AliasName includes the prefix "alias/".
type Alias struct {
	AliasName    string
	KeyId        string
	CreationDate time.Time
}

// A User is a principal with policies.
type User struct {
	UserName     string
	Policies     []string // RAM policy documents
	CreationDate time.Time
}

// An AccessKey is a credential of a User for the RPC API.
type AccessKey struct {
	AccessKeyId  string
	UserName     string
	Sealed       []byte // the AccessKeySecret, sealed by the token with the AccessKeyId as additional data
	Active       bool
	CreationDate time.Time
}

// A Creation is the intent to make a key pair. It is written before the token
// is asked for one, and removed in the transaction that writes the KeyVersion:
// one that is found at start is of a creation that was cut off.
type Creation struct {
	KeyVersionId string
	Begun        time.Time
	Key          hsm.Key // ID and Spec
}

// A Nonce is a signature nonce that must not be accepted again before Until.
type Nonce struct {
	AccessKeyId string
	Nonce       string
	Until       time.Time
}
