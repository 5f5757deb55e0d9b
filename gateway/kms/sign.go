package kms

// GenerateRandomRequest holds the parameters of GenerateRandom.
type GenerateRandomRequest struct {
	Length *int `kms:"required,min=1,max=1024"` // in bytes
}

// GenerateRandomResponse is the answer to GenerateRandom.
type GenerateRandomResponse struct {
	Result
	Random Base64
}

// AsymmetricSignRequest holds the parameters of AsymmetricSign.
type AsymmetricSignRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
	Algorithm    string `kms:"required"`
	Digest       []byte `kms:"required"`
}

// AsymmetricSignResponse is the answer to AsymmetricSign.
type AsymmetricSignResponse struct {
	Result
	KeyId        string
	KeyVersionId string
	Value        Base64
}

// AsymmetricVerifyRequest holds the parameters of AsymmetricVerify.
type AsymmetricVerifyRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
	Algorithm    string `kms:"required"`
	Digest       []byte `kms:"required"`
	Value        []byte `kms:"required"`
}

// AsymmetricVerifyResponse is the answer to AsymmetricVerify.
type AsymmetricVerifyResponse struct {
	Result
	KeyId        string
	KeyVersionId string
	Value        bool
}

// GetPublicKeyRequest holds the parameters of GetPublicKey.
type GetPublicKeyRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
}

// GetPublicKeyResponse is the answer to GetPublicKey.
type GetPublicKeyResponse struct {
	Result
	KeyId        string
	KeyVersionId string
	PublicKey    string
}
