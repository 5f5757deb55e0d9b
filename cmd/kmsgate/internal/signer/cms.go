package signer

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/emmansun/gmsm/pkcs7"
	"github.com/emmansun/gmsm/sm3"
	"github.com/emmansun/gmsm/smx509"

	"github.com/kmsgate/kmsgate/hsm"
)

// ParseCertificates parses certificates in PEM, that of the signer first.
func ParseCertificates(text []byte) (all []*smx509.Certificate, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := smx509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	if all == nil {
		return nil, errors.New("it has no certificate in PEM")
	}
	return all, nil
}

// CMS returns a detached CMS signature (RFC 5652; for SM2 with the object identifiers of
// GB/T 35275-2017) of what r reads, in DER. The first certificate must be that of the key, the
// others are its issuers. RSA keys sign with RSA_PKCS1_SHA_256. It uses constant memory.
func CMS(s crypto.Signer, k Key, certificates []*smx509.Certificate, r io.Reader) ([]byte, error) {
	if public, err := smx509.MarshalPKIXPublicKey(certificates[0].PublicKey); err != nil || !bytes.Equal(public, k.Public()) {
		return nil, fmt.Errorf("the certificate of %q is not for key version %s", certificates[0].Subject, k.KeyVersionId)
	}
	var h hash.Hash = sha256.New()
	if k.Spec() == hsm.EC_SM2 {
		h = sm3.New() // the content's digest has no Z_A; that of the signed attributes has
	}
	if _, err := io.Copy(h, r); err != nil {
		return nil, err
	}
	sign := pkcs7.NewSignedDataWithDigest
	if k.Spec() == hsm.EC_SM2 {
		sign = pkcs7.NewSMSignedDataWithDigest
	}
	signed, err := sign(h.Sum(nil))
	if err != nil {
		return nil, err
	}
	if k.Spec() != hsm.EC_SM2 {
		signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	}
	if err := signed.AddSignerChain(certificates[0], s, certificates[1:], pkcs7.SignerInfoConfig{}); err != nil {
		return nil, fmt.Errorf("making the CMS signature: %w", err)
	}
	if k.Spec() == hsm.EC_P256 {
		// RFC 5754, 3.3: the parameters are absent.
		signed.GetSignedData().SignerInfos[0].DigestEncryptionAlgorithm.Parameters = asn1.RawValue{}
	}
	signed.Detach()
	return signed.Finish()
}
