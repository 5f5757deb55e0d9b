package hsm

import (
	"context"
	"time"
)

// An Inspector tells operators what is in a token and what the token can do. Package
// hsm/token implements it.
type Inspector interface {
	// Survey asks the module and the token what they are, and tries what they
	// offer: it makes key pairs that live as long as its session, and signs with
	// them. That takes a second or so, and leaves nothing in the token.
	Survey(ctx context.Context) (Survey, error)

	// Objects lists every object in the token that this user can see, including those
	// of other applications. Each object takes 0.2 ms on SoftHSM.
	Objects(ctx context.Context) ([]Object, error)

	// DestroyObject destroys an object that Objects has listed: only one with a
	// label of ours, and only if it still is what it was then. An object that is
	// gone already is ErrNotFound.
	DestroyObject(ctx context.Context, o Object) error
}

// A Survey is what a token is and can do.
type Survey struct {
	Module     ModuleInfo
	Token      TokenInfo
	Mechanisms []Mechanism // in the order of their numbers
	Offers     []Offer     // one for each KeySpec, in the order of KeySpecs()
	Sealing    string      // how secrets are sealed: SealAESGCM, SealHMAC, or empty if they cannot be
	Copies     bool        // signing goes through copies of keys that live in a session, because that is faster here
}

// The ways of sealing.
const (
	SealAESGCM = "AES-GCM in the token"
	SealHMAC   = "AES-GCM in software, under a key that the token derives by HMAC"
)

// ModuleInfo is what a PKCS#11 module says of itself (CK_INFO).
type ModuleInfo struct {
	Path         string
	Manufacturer string
	Description  string
	Version      string
	Cryptoki     string // the version of PKCS#11
}

// TokenInfo is what a token says of itself (CK_TOKEN_INFO).
type TokenInfo struct {
	Slot         uint
	Label        string
	Serial       string
	Manufacturer string
	Model        string
	Hardware     string // version
	Firmware     string // version
	Flags        []string
	MaxSessions  uint // 0: it does not say, or there is no limit
}

// A Mechanism is one that a token lists (CK_MECHANISM_INFO).
type Mechanism struct {
	ID         uint
	Name       string // CKM_…, or its number in hexadecimal
	MinKeySize uint
	MaxKeySize uint
	Flags      []string
}

// An Offer says whether the gateway can make keys of a KeySpec.
type Offer struct {
	KeySpec  KeySpec
	Offered  bool
	Software bool          // the key lives in this process, sealed by the token
	Reason   string        // why it is not offered
	Generate time.Duration // how long making the key pair took; 0 if none was made
	Sign     time.Duration // how long one signature took, the median of several; 0 if none was made
}

// An Object is one object in a token.
type Object struct {
	Handle  uint // of this connection
	Class   string
	KeyType string // of keys
	Label   string
	ID      []byte // CKA_ID; nil if it has none
	KeySpec KeySpec
	Public  []byte // SubjectPublicKeyInfo, DER; of public keys of a known KeySpec
	Ours    bool   // it has one of kmsgate's labels, or nothing at all
	Purpose string // of ours: PurposeKey and so on
}

// The classes of objects.
const (
	ClassPrivateKey = "private key"
	ClassPublicKey  = "public key"
	ClassSecretKey  = "secret key"
	ClassOther      = "other" // certificates, data
)

// What an object of ours is for.
const (
	PurposeKey     = "key"     // one half of a key pair that signs
	PurposeCanary  = "canary"  // one half of the pair that tells whether the token works
	PurposeSealing = "sealing" // the key that seals

	// PurposeNone: it has not even a class, so it is no object of anybody's. A
	// kill while SoftHSM makes a key leaves them.
	PurposeNone = "none, it was not finished"
)
