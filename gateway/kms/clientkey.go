package kms

// CreateClientKeyRequest holds the parameters of CreateClientKey.
type CreateClientKeyRequest struct {
	AapName   string `kms:"required"`
	Password  string `kms:"required"`
	NotBefore string
	NotAfter  string
}

// CreateClientKeyResponse is the answer to CreateClientKey. No other answer contains the private
// key.
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

// GetClientKeyResponse is the answer to GetClientKey.
type GetClientKeyResponse struct {
	Result
	ClientKeyItem
}

// ListClientKeysRequest holds the parameters of ListClientKeys.
type ListClientKeysRequest struct {
	AapName string // empty means all access points
}

// ListClientKeysResponse is the answer to ListClientKeys. Unlike other lists, its list is not
// nested.
type ListClientKeysResponse struct {
	Result
	ClientKeys []ClientKeyItem
}
