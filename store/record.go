package store

import (
	"encoding/json"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
)

// An Instance identifies the KMS instance that the database belongs to.
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
	// DeleteWindow is not zero if the clock could not be believed when the deletion was scheduled. The
	// window then begins when the clock can be believed.
	DeleteWindow time.Duration `json:",omitzero"`
	Protected    bool          // deletion protection is on
	ProtectedWhy string        // DeletionProtectionDescription
	Tags         map[string]string
	Policy       string // the key policy, a JSON document; empty if the key has none
}

// OriginSeed is the Origin of a key with a private key that a seed of kmsgate dev has. Such a key is
// for tests: the private key was never only in the token.
const OriginSeed = "DEV_SEED"

// A KeyVersion is one key pair of a Key.
type KeyVersion struct {
	KeyId        string
	KeyVersionId string
	CreationDate time.Time
	Key          hsm.Key
	LastUsedDate time.Time `json:",omitzero"` // of the last signature; zero if never; a minute late at most, and lost in a crash
}

// An Alias names a key. AliasName includes the prefix "alias/".
type Alias struct {
	AliasName    string
	KeyId        string
	CreationDate time.Time
}

// A User is a principal with RAM policies.
type User struct {
	UserName     string
	Comments     string
	Policies     []string           // names of system policies and of RamPolicy records
	Quotas       map[string]float64 // the user's exceptions from the default quotas: queries per second, by quota name
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
	Sealed       []byte // the AccessKeySecret, sealed by the token; the AccessKeyId is the additional data
	Active       bool
	CreationDate time.Time
	LastUsedDate time.Time // zero if never used; at most a minute behind; a crash loses what is not yet written
}

// A NetworkRule lists the addresses from which a client key may be used.
type NetworkRule struct {
	Name            string
	Description     string
	SourcePrivateIp []string // addresses and prefixes
	CreationDate    time.Time
}

// A PermissionPolicy lists what client keys may do. KMS also calls it a policy, but it is not a
// RAM policy.
type PermissionPolicy struct {
	Name         string
	Description  string
	KmsInstance  string
	Permissions  []string // names of KMS's templates
	Resources    []string // key/<KeyId>, secret/<SecretName>; the last character can be *
	NetworkRules []string // names; an empty list admits all addresses, a rule that does not exist admits none
	CreationDate time.Time
}

// An ApplicationAccessPoint (AAP) owns client keys and the permission policies that apply to them.
type ApplicationAccessPoint struct {
	Name         string
	Description  string
	Policies     []string // names of PermissionPolicies; one that does not exist permits nothing
	CreationDate time.Time
}

// A ClientKey is a credential of an ApplicationAccessPoint for the native API. The database does
// not hold its private key, which is returned only once, when the client key is created.
type ClientKey struct {
	ClientKeyId  string // KAAP.<uuid>
	AapName      string
	Certificate  []byte    // self-signed, in DER; contains the RSA public key
	NotBefore    time.Time // in whole seconds
	NotAfter     time.Time // in whole seconds
	Sealed       []byte    // proves that the gateway wrote all fields above
	CreationDate time.Time
}

// An Orphan is a key pair that belongs to no KeyVersion, because it is being created or destroyed:
//
//   - Creation writes the Orphan before it asks the token for the pair. The transaction that writes
//     the KeyVersion removes it.
//   - The transaction that deletes a KeyVersion writes the Orphan. It is removed after the token
//     has destroyed the pair.
//
// The pair of every Orphan found at start must therefore be destroyed.
type Orphan struct {
	KeyVersionId string
	Since        time.Time
	Key          hsm.Key // ID, Spec and, for a software key, Sealed
}

// A Nonce is a signature nonce that must not be accepted again before Until.
type Nonce struct {
	AccessKeyId string
	Nonce       string
	Until       time.Time
}

// A ClockState is what must be known of this machine's clock after a restart.
type ClockState struct {
	Last       time.Time // the last time known
	Problem    string    // why the clock cannot be believed; empty if it can
	NonceFloor time.Time // the latest Until of a nonce that was forgotten
}

// An AuditHead describes the audit-log line that was recorded last, with the audit key's signature.
type AuditHead struct {
	Seq       uint64
	Hash      string
	Time      time.Time
	Signature []byte
	Ended     bool // the log was closed after this line, and Signature is empty
}

// An Outbox record is the audit line of a change. The transaction that makes the change writes it,
// and it is removed once the line is in the log. The change of a record found at start may
// therefore lack its line.
type Outbox struct {
	RequestId string
	After     uint64 // number of the log's last line when the record was written; its line can only follow
	Entry     json.RawMessage
}
