package store

import (
	"encoding/json"
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
	Protected       bool      // from deletion
	ProtectedWhy    string    // DeletionProtectionDescription
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
	Comments     string
	Policies     []string           // names of system policies and of RamPolicy records
	Quotas       map[string]float64 // queries per second, by the quota's name, where the user has others than everybody
	CreationDate time.Time
}

// A RamPolicy is a RAM policy that can be attached to users.
type RamPolicy struct {
	PolicyName     string
	Description    string
	PolicyDocument string
	CreationDate   time.Time
	UpdateDate     time.Time
}

// An AccessKey is a credential of a User for the RPC API.
type AccessKey struct {
	AccessKeyId  string
	UserName     string
	Sealed       []byte // the AccessKeySecret, sealed by the token with the AccessKeyId as additional data
	Active       bool
	CreationDate time.Time
	LastUsedDate time.Time // zero if never; a minute late at most, and lost in a crash
}

// A NetworkRule says which addresses may use a client key.
type NetworkRule struct {
	Name            string
	Description     string
	SourcePrivateIp []string // addresses and prefixes
	CreationDate    time.Time
}

// A PermissionPolicy says what client keys may do. KMS calls it a policy, too, but
// it is none of RAM's.
type PermissionPolicy struct {
	Name         string
	Description  string
	KmsInstance  string
	Permissions  []string // names of KMS's templates
	Resources    []string // key/<KeyId>, secret/<SecretName>; the last character can be *
	NetworkRules []string // names; all addresses if there are none. A rule that there is not lets nobody in
	CreationDate time.Time
}

// An ApplicationAccessPoint (AAP) is what client keys belong to.
type ApplicationAccessPoint struct {
	Name         string
	Description  string
	Policies     []string // names of PermissionPolicies; one that there is not permits nothing
	CreationDate time.Time
}

// A ClientKey is a credential of an ApplicationAccessPoint for the native API. Its
// private half was given away when it was made, and is not here.
type ClientKey struct {
	ClientKeyId  string // KAAP.<uuid>
	AapName      string
	Certificate  []byte    // DER; self-made, with the RSA public key
	NotBefore    time.Time // to the second
	NotAfter     time.Time // to the second
	Sealed       []byte    // proves that the gateway wrote all of the above
	CreationDate time.Time
}

// An Orphan is a key pair that belongs to no KeyVersion: it is being made, or
// is to be destroyed. It is written before the token is asked to make the pair,
// and removed in the transaction that writes the KeyVersion; and it is written
// in the transaction that deletes a KeyVersion, and removed when the token has
// destroyed the pair. So one that is found at start is to be destroyed.
type Orphan struct {
	KeyVersionId string
	Since        time.Time
	Key          hsm.Key // ID, Spec, and Sealed if it is a software key
}

// A Nonce is a signature nonce that must not be accepted again before Until.
type Nonce struct {
	AccessKeyId string
	Nonce       string
	Until       time.Time
}

// An AuditHead is the last line of the audit log that was kept, with the audit key's
// signature.
type AuditHead struct {
	Seq       uint64
	Hash      string
	Time      time.Time
	Signature []byte
	Ended     bool // it was the last line when the log was closed; it has no Signature then
}

// An Outbox record is the audit line of a change, written in the transaction
// that makes the change and removed when the line is in the log. So one that is
// found at start stands for a change that may lack its line.
type Outbox struct {
	RequestId string
	After     uint64 // the log's last line when this was written: its own is behind that
	Entry     json.RawMessage
}
