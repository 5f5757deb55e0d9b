package kms

import (
	"time"

	"github.com/kmsgate/kmsgate/hsm"
)

// An Attestation says what the gateway knows of a document that a local person presented. The audit
// key signs the SHA-256 of its text. The gateway does not know the document: it vouches for its
// hash, for who presented it and when, and for the keys.
type Attestation struct {
	Format    string // audit.AttestationFormat
	Kind      string // what the document is
	Document  string // its SHA-256, in hexadecimal
	Time      time.Time
	Instance  string // the instance's ARN
	Principal string // the person: "local:<uid>"
	LoginUid  string `json:",omitempty"` // the uid that the person logged in with, before sudo
	RequestId string // of the request that made the attestation

	// AuditHead is a line of the audit log: everything that was done before the attestation was
	// made is in that line or an earlier one.
	AuditHead struct {
		Seq  uint64
		Hash string
	}

	Module *hsm.ModuleInfo `json:",omitempty"` // if Inspect was set
	Token  *hsm.TokenInfo  `json:",omitempty"` // if Inspect was set
	Keys   []AttestedKey   // the key versions that were asked for, and exist
}

// An AttestedKey is a key version of the gateway.
type AttestedKey struct {
	KeyId        string
	KeyVersionId string
	KeySpec      hsm.KeySpec
	KeyState     string
	CreationDate time.Time // of the version
	PublicKey    Base64    // SubjectPublicKeyInfo, DER
	Protection   string    // ProtectionToken or ProtectionSealed

	// Attributes are what the token reports of the private key, or of the key that sealed it. They
	// are there if Inspect was set; the key then also made a signature, which verified.
	Attributes []hsm.Attribute `json:",omitempty"`
}

// The values of AttestedKey.Protection.
const (
	ProtectionToken  = "in the token"
	ProtectionSealed = "in software, sealed by the token"
)

// CreateAttestationRequest holds the parameters of CreateAttestation.
type CreateAttestationRequest struct {
	Kind        string           `kms:"required,oneof=batch|ceremony"`
	Document    string           `kms:"required,bytes=64"` // the SHA-256 in lower-case hexadecimal
	KeyVersions []KeyVersionName // those that do not exist are left out of the answer
	Inspect     *bool            // describe the token, read every key's attributes, and sign with every key once
}

// A KeyVersionName names a key version.
type KeyVersionName struct {
	KeyId        string
	KeyVersionId string
}

// CreateAttestationResponse is the answer to CreateAttestation.
type CreateAttestationResponse struct {
	Result
	Attestation Base64 // the text of an Attestation, in JSON
	Signature   Base64 // of its SHA-256 by the audit key; audit.Signed checks it
}
