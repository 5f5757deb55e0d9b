package kms

type CreateClientKeyRequest struct {
	AapName   string `kms:"required"`
	Password  string `kms:"required"`
	NotBefore string
	NotAfter  string
}

// CreateClientKeyResponse is the only answer that shows the private key.
type CreateClientKeyResponse struct {
	Result
	ClientKeyId    string
	KeyAlgorithm   string
	NotAfter       string
	NotBefore      string
	PrivateKeyData Base64 // PKCS#12
}

// A ClientKeyRequest names a client key.
type ClientKeyRequest struct {
	ClientKeyId string `kms:"required,bytes=64"`
}

// A ClientKeyItem is a client key as the API shows it.
type ClientKeyItem struct {
	AapName       string
	ClientKeyId   string
	CreateTime    string
	KeyAlgorithm  string
	KeyOrigin     string
	NotAfter      string
	NotBefore     string
	PublicKeyData string // the certificate, PEM
}

type GetClientKeyResponse struct {
	Result
	ClientKeyItem
}

type ListClientKeysRequest struct {
	AapName string // all access points if empty
}

// ListClientKeysResponse has its list directly, unlike the responses of other lists.
type ListClientKeysResponse struct {
	Result
	ClientKeys []ClientKeyItem
}
