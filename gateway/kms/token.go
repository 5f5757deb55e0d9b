package kms

import "github.com/kmsgate/kmsgate/hsm"

type DescribeTokenResponse struct {
	Result
	Survey hsm.Survey
}

// The uses of an object in the token.
const (
	UseVersion  = "key version"
	UseAudit    = "audit key"
	UseSealing  = "sealing key"
	UseCanary   = "canary"
	UseOrphan   = "being made or destroyed"
	UseStray    = "stray"     // an object of the gateway's that belongs to no record
	UseAnothers = "another's" // without the gateway's label
)

// An Owner is the record that a key pair belongs to.
type Owner struct {
	Use          string
	KeyId        string
	KeyVersionId string
	KeyState     string
	Aliases      AliasNames
}

// AliasNames are the aliases of a key.
type AliasNames struct{ Alias []string }

// A TokenObject is an object in the token with its record.
type TokenObject struct {
	Handle   uint
	Class    string
	KeyType  string
	KeySpec  hsm.KeySpec
	Label    string
	ObjectId string // CKA_ID in hexadecimal; empty if it has none
	Owner
	OtherPublicKey bool // it is a public key, and not the one that the record has
}

// A Deviation is a record of a key pair of which the token has not exactly one
// private key.
type Deviation struct {
	Owner
	KeySpec     hsm.KeySpec
	PrivateKeys int
}

type ListTokenObjectsResponse struct {
	Result
	Objects    struct{ Object []TokenObject }
	Deviations struct{ Deviation []Deviation }
}

type DestroyTokenObjectRequest struct {
	Handle   string `kms:"required"` // not a number of ours: it can have 64 bits
	Class    string
	Label    string
	ObjectId string
}

type TestKeyVersionRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
	Count        *int   `kms:"min=1,max=100"`
}

type TestKeyVersionResponse struct {
	Result
	KeyId        string
	KeyVersionId string
	KeySpec      hsm.KeySpec
	Signatures   int

	// How long one took.
	MinMilliseconds    float64
	MedianMilliseconds float64
	MaxMilliseconds    float64
}
