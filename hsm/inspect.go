package hsm

import (
	"context"
	"time"
)

// An Inspector shows operators what a token contains and can do. Package hsm/token implements
// it.
type Inspector interface {
	// Survey describes the module and the token, and tests what they offer. For the test it
	// makes key pairs in its session and signs with them. It takes about a second and leaves
	// nothing in the token.
	Survey(ctx context.Context) (Survey, error)

	// Objects lists every object in the token that this user can see, including those
	// of other applications. Each object takes 0.2 ms on SoftHSM.
	Objects(ctx context.Context) ([]Object, error)

	// DestroyObject destroys an object that Objects has listed. The object must have one of
	// kmsgate's labels and must not have changed since. The error is ErrNotFound if the
	// object is already gone.
	DestroyObject(ctx context.Context, o Object) error

	// Attributes returns what the token reports of the key that protects k: its private key or,
	// if k is sealed, the key that sealed it. The error is ErrNotFound if the token does not have
	// it.
	Attributes(ctx context.Context, k Key) ([]Attribute, error)
}

// An Attribute is an attribute of an object in a token, as the token reports it.
type Attribute struct {
	Name  string // CKA_…
	Value string // true, false, a name of PKCS#11, text, or hexadecimal
}

// A Survey describes a token and what it can do.
type Survey struct {
	Module     ModuleInfo
	Token      TokenInfo
	Mechanisms []Mechanism // sorted by ID
	Offers     []Offer     // one for each KeySpec, in the order of KeySpecs()
	Sealing    string      // how secrets are sealed: SealAESGCM, SealHMAC, or empty if they cannot be
	Copies     bool        // keys sign through copies in a session, because that is faster on this token
}

// The sealing methods of a Survey.
const (
	SealAESGCM = "AES-GCM in the token"
	SealHMAC   = "AES-GCM in software, under a key that the token derives by HMAC"
)

// ModuleInfo describes a PKCS#11 module (CK_INFO).
type ModuleInfo struct {
	Path         string
	Manufacturer string
	Description  string
	Version      string
	Cryptoki     string // the version of PKCS#11
}

// TokenInfo describes a token (CK_TOKEN_INFO).
type TokenInfo struct {
	Slot         uint
	Label        string
	Serial       string
	Manufacturer string
	Model        string
	Hardware     string // version
	Firmware     string // version
	Flags        []string
	MaxSessions  uint // 0 if the token reports no limit
}

// A Mechanism is a mechanism that a token lists (CK_MECHANISM_INFO).
type Mechanism struct {
	ID         uint
	Name       string // CKM_…, or its number in hexadecimal
	MinKeySize uint
	MaxKeySize uint
	Flags      []string
}

// An Offer reports whether the gateway can make keys of a KeySpec.
type Offer struct {
	KeySpec  KeySpec
	Offered  bool
	Software bool          // the key is used in this process and sealed by the token
	Reason   string        // why the KeySpec is not offered
	Generate time.Duration `json:"GenerateNanoseconds"` // the time to make a key pair; 0 if none was made
	Sign     time.Duration `json:"SignNanoseconds"`     // the median time of a signature; 0 if none was made
}

// An Object is one object in a token.
type Object struct {
	Handle  uint // valid on this connection only
	Class   string
	KeyType string // keys only
	Label   string
	ID      []byte // CKA_ID; nil if it has none
	KeySpec KeySpec
	Public  []byte // SubjectPublicKeyInfo, DER; only for public keys of a known KeySpec
	Ours    bool   // it has one of kmsgate's labels, or no attributes at all
	Purpose string // if Ours: PurposeKey and so on
}

// The classes of objects.
const (
	ClassPrivateKey = "private key"
	ClassPublicKey  = "public key"
	ClassSecretKey  = "secret key"
	ClassData       = "data"
	ClassOther      = "other" // such as certificates
)

// The purposes of kmsgate's objects.
const (
	PurposeKey     = "key"     // one half of a key pair that signs
	PurposeCanary  = "canary"  // one half of the pair that shows whether the token works
	PurposeSealing = "sealing" // the sealing key
	PurposeAudit   = "audit"   // one half of the pair that signs the audit log
	PurposeCounter = "counter" // the number of a Counter

	// PurposeNone: the object lacks even a class, so no application uses it. SoftHSM leaves
	// such objects if it is killed while it makes a key.
	PurposeNone = "none, it was not finished"
)
