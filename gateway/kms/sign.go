package kms

type GenerateRandomRequest struct {
	Length *int `kms:"required,min=1,max=1024"` // in bytes
}

type GenerateRandomResponse struct {
	Result
	Random Base64
}

type AsymmetricSignRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
	Algorithm    string `kms:"required"`
	Digest       []byte `kms:"required"`
}

type AsymmetricSignResponse struct {
	Result
	KeyId        string
	KeyVersionId string
	Value        Base64
}

type AsymmetricVerifyRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
	Algorithm    string `kms:"required"`
	Digest       []byte `kms:"required"`
	Value        []byte `kms:"required"`
}

type AsymmetricVerifyResponse struct {
	Result
	KeyId        string
	KeyVersionId string
	Value        bool
}

type GetPublicKeyRequest struct {
	KeyId        string `kms:"required"`
	KeyVersionId string `kms:"required"`
}

type GetPublicKeyResponse struct {
	Result
	KeyId        string
	KeyVersionId string
	PublicKey    string
}
