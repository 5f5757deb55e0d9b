// Command main signs with Alibaba Cloud's SDK and verifies each signature without it.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"os"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"
	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/sm3"
	"github.com/emmansun/gmsm/smx509"
)

// A key names one version of a key.
type key struct{ keyId, keyVersionId string }

var (
	message = []byte("hello")
	rsaKey  = key{"key-example-rsa", "11111111-1111-4111-8111-111111111111"}
	ecKey   = key{"key-example-ec", "22222222-2222-4222-8222-222222222222"}
	sm2Key  = key{"key-example-sm2", "33333333-3333-4333-8333-333333333333"}
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ca, err := os.ReadFile(os.Getenv("KMSGATE_CA_FILE"))
	if err != nil {
		return err
	}
	client, err := kms.NewClient(&openapi.Config{
		Endpoint:        tea.String(os.Getenv("KMSGATE_ENDPOINT")), // host:port
		Ca:              tea.String(string(ca)),                    // the PEM text, not a path
		AccessKeyId:     tea.String(os.Getenv("ALIBABA_CLOUD_ACCESS_KEY_ID")),
		AccessKeySecret: tea.String(os.Getenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET")),
	})
	if err != nil {
		return err
	}
	digest := sha256.Sum256(message)
	if err := signECDSA(client, digest[:]); err != nil {
		return err
	}
	if err := signPSS(client, digest[:]); err != nil {
		return err
	}
	if err := signSM2(client); err != nil {
		return err
	}

	// An error has KMS's code.
	_, err = sign(client, key{"key-none", ecKey.keyVersionId}, "ECDSA_SHA_256", digest[:])
	var refusal *tea.SDKError
	if !errors.As(err, &refusal) {
		return fmt.Errorf("signing with a key that does not exist: %w", err)
	}
	fmt.Println("error", tea.StringValue(refusal.Code))
	return nil
}

// sign returns the signature of a digest of 32 bytes.
func sign(client *kms.Client, k key, algorithm string, digest []byte) ([]byte, error) {
	response, err := client.AsymmetricSign(&kms.AsymmetricSignRequest{
		KeyId: &k.keyId, KeyVersionId: &k.keyVersionId, Algorithm: &algorithm,
		Digest: tea.String(base64.StdEncoding.EncodeToString(digest)),
	})
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(tea.StringValue(response.Body.Value))
}

// publicKey returns the SubjectPublicKeyInfo of a public key in DER.
func publicKey(client *kms.Client, k key) ([]byte, error) {
	response, err := client.GetPublicKey(&kms.GetPublicKeyRequest{KeyId: &k.keyId, KeyVersionId: &k.keyVersionId})
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(tea.StringValue(response.Body.PublicKey)))
	if block == nil {
		return nil, errors.New("the public key is not PEM")
	}
	return block.Bytes, nil
}

// signECDSA signs and verifies with ECDSA. The signature is the ASN.1 of r and s.
func signECDSA(client *kms.Client, digest []byte) error {
	signature, err := sign(client, ecKey, "ECDSA_SHA_256", digest)
	if err != nil {
		return err
	}
	der, err := publicKey(client, ecKey)
	if err != nil {
		return err
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest, signature) {
		return errors.New("the ECDSA signature is not valid")
	}
	fmt.Println("ECDSA_SHA_256 valid")
	return nil
}

// signPSS signs and verifies with RSA-PSS. The salt has 32 bytes.
func signPSS(client *kms.Client, digest []byte) error {
	signature, err := sign(client, rsaKey, "RSA_PSS_SHA_256", digest)
	if err != nil {
		return err
	}
	der, err := publicKey(client, rsaKey)
	if err != nil {
		return err
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return err
	}
	err = rsa.VerifyPSS(public.(*rsa.PublicKey), crypto.SHA256, digest, signature, &rsa.PSSOptions{SaltLength: 32})
	if err != nil {
		return fmt.Errorf("the RSA-PSS signature is not valid: %w", err)
	}
	fmt.Println("RSA_PSS_SHA_256 valid")
	return nil
}

// signSM2 signs and verifies with SM2. The digest is SM3(Z_A || message), where Z_A contains the signer's id and public key
// (GB/T 32918.2, 5.5).
func signSM2(client *kms.Client) error {
	der, err := publicKey(client, sm2Key)
	if err != nil {
		return err
	}
	parsed, err := smx509.ParsePKIXPublicKey(der)
	if err != nil {
		return err
	}
	public := parsed.(*ecdsa.PublicKey)
	z, err := sm2.CalculateZA(public, []byte("1234567812345678"))
	if err != nil {
		return err
	}
	digest := sm3.Sum(append(z, message...))
	signature, err := sign(client, sm2Key, "SM2DSA", digest[:])
	if err != nil {
		return err
	}
	if !sm2.VerifyASN1WithSM2(public, nil, message, signature) {
		return errors.New("the SM2 signature is not valid")
	}
	fmt.Println("SM2DSA valid")
	return nil
}
