package kms

import "github.com/kmsgate/kmsgate/hsm"

// DescribeTokenResponse is the answer to DescribeToken.
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
	UseCounter  = "counter"
	UseOrphan   = "being made or destroyed"
	UseStray    = "stray"     // has the gateway's label, but belongs to no record
	UseAnothers = "another's" // does not have the gateway's label
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

// A TokenObject is an object in the token, with the record that it belongs to.
type TokenObject struct {
	Handle   uint
	Class    string
	KeyType  string
	KeySpec  hsm.KeySpec
	Label    string
	ObjectId string // CKA_ID in hexadecimal; empty if the object has none
	Owner
	OtherPublicKey bool // reports whether it is a public key that differs from the record's
}

// A Deviation is a record of a key pair for which the token does not have exactly one private
// key.
type Deviation struct {
	Owner
	KeySpec     hsm.KeySpec
	PrivateKeys int
}

// ListTokenObjectsResponse is the answer to ListTokenObjects.
type ListTokenObjectsResponse struct {
	Result
	Objects    struct{ Object []TokenObject }
	Deviations struct{ Deviation []Deviation }
}

// DestroyTokenObjectRequest holds the parameters of DestroyTokenObject.
type DestroyTokenObjectRequest struct {
	Handle   string `kms:"required"` // not a *int, because a handle can have 64 bits
	Class    string
	Label    string
	ObjectId string
}

// TestKeyVersionRequest holds the parameters of TestKeyVersion.
type TestKeyVersionRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
	Count        *int   `kms:"min=1,max=100"`
}

// TestKeyVersionResponse is the answer to TestKeyVersion.
type TestKeyVersionResponse struct {
	Result
	KeyId        string
	KeyVersionId string
	KeySpec      hsm.KeySpec
	Signatures   int

	// The time per signature.
	MinMilliseconds    float64
	MedianMilliseconds float64
	MaxMilliseconds    float64
}
