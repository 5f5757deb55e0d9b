package gateway

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

const (
	clientKeyPrefix    = "KAAP."
	clientKeyAlgorithm = "RSA_2048"
	clientKeyBits      = 2048
	clientKeyOrigin    = "KMS_PROVIDED"
	clientKeyYears     = 5 // that one is good for if its creator does not say otherwise
)

// checkPassword holds a client key's password to KMS's rules. It is not echoed.
func checkPassword(password string) error {
	kinds := 0
	for _, kind := range []string{"0123456789", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "~!@#$%^&*?_-"} {
		if strings.ContainsAny(password, kind) {
			kinds++
		}
	}
	if !passwordCharacters.MatchString(password) || kinds < 2 {
		return kms.InvalidParameter("Password", "it has to be 8 to 64 digits, letters and special characters (~!@#$%%^&*?_-), of at least two of these kinds")
	}
	return nil
}

var passwordCharacters = regexp.MustCompile(`^[0-9A-Za-z~!@#$%^&*?_-]{8,64}$`)

// validity gives from when to when a client key is to be good.
func (c *call) validity(notBefore, notAfter string) (from, to time.Time, err error) {
	if notBefore == "" && notAfter == "" {
		from = c.now.Truncate(time.Second) // finer times cannot be told in a certificate
		return from, from.AddDate(clientKeyYears, 0, 0), nil
	}
	from, fromErr := kms.ParseTime("NotBefore", notBefore)
	to, toErr := kms.ParseTime("NotAfter", notAfter)
	switch {
	case fromErr != nil || toErr != nil:
		return from, to, errors.Join(fromErr, toErr)
	case !to.After(from):
		return from, to, kms.InvalidParameter("NotAfter", "it is not after NotBefore")
	case !to.After(c.now):
		return from, to, kms.InvalidParameter("NotAfter", "it has passed already")
	}
	return from, to, nil
}

func createClientKey(ctx context.Context, c *call, req *kms.CreateClientKeyRequest) (*kms.CreateClientKeyResponse, error) {
	from, to, err := c.validity(req.NotBefore, req.NotAfter)
	if err := errors.Join(checkPassword(req.Password), err); err != nil {
		return nil, err
	}
	if err := c.authorizeNamed("AapName", req.AapName); err != nil {
		return nil, err
	}
	k := store.ClientKey{ClientKeyId: clientKeyPrefix + uuid.NewString(), AapName: req.AapName, NotBefore: from, NotAfter: to, CreationDate: c.now}
	put := func(tx *store.Tx) error {
		if tx.ClientKeys().Len() >= identity.MaxClientKeys {
			return kms.ErrLimitExceeded.Because("There are %d client keys.", identity.MaxClientKeys)
		}
		if _, err := accessPoints.find(tx.Records, req.AapName); err != nil {
			return err
		}
		return tx.ClientKeys().Create(k)
	}
	if err := c.records.Try(put); err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	pfx, err := makeClientKey(&k, req.Password)
	if err != nil {
		return nil, fmt.Errorf("making a client key: %w", err)
	}
	if err := identity.SealClientKey(ctx, c.server.Sealer, &k); err != nil {
		return nil, err
	}
	c.entry.Subject = k.AapName + "/" + k.ClientKeyId
	if err := c.write(put); err != nil {
		return nil, err
	}
	return &kms.CreateClientKeyResponse{ClientKeyId: k.ClientKeyId, KeyAlgorithm: clientKeyAlgorithm,
		NotAfter: kms.FormatTime(k.NotAfter), NotBefore: kms.FormatTime(k.NotBefore), PrivateKeyData: pfx}, nil
}

// clientKeyFile writes PKCS#12 as KMS's instance SDKs can read it: they know SHA-1
// and 3DES only, and want one certificate before one key. Such a file is no better
// kept than its password; what can be done for that is to make each guess dearer
// than go-pkcs12's one iteration. Ten thousand cost clients in JavaScript less than
// a second.
var clientKeyFile = pkcs12.LegacyDES.WithIterations(10_000)

// makeClientKey makes a key pair and, for the public half, the certificate that
// goes into the record. The private half is in the file that it gives, under the
// password, and nowhere else.
func makeClientKey(k *store.ClientKey, password string) (pfx []byte, err error) {
	private, err := rsa.GenerateKey(rand.Reader, clientKeyBits)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: k.ClientKeyId},
		NotBefore:   k.NotBefore,
		NotAfter:    k.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		// Without a SerialNumber it gets a random one.
	}
	k.Certificate, err = x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(k.Certificate)
	if err != nil {
		return nil, err
	}
	return clientKeyFile.Encode(private, certificate, nil, password)
}

// clientKey gives a client key, if the caller may do what it asks for with its
// access point's. That there is none is told only to who may with every access
// point's.
func (c *call) clientKey(clientKeyId string) (store.ClientKey, error) {
	c.entry.Subject = kms.Clip(clientKeyId)
	k, err := c.records.ClientKeys().Get(clientKeyId)
	if errors.Is(err, store.ErrNotFound) {
		if err := c.authorize(c.namedARN(anyName)); err != nil {
			return store.ClientKey{}, err
		}
		return store.ClientKey{}, noClientKey(clientKeyId)
	}
	if err != nil {
		return store.ClientKey{}, err
	}
	c.entry.Subject = k.AapName + "/" + k.ClientKeyId
	return k, c.authorize(c.namedARN(k.AapName))
}

// noClientKey tells that there is none, to who may know.
func noClientKey(clientKeyId string) error {
	return kms.ErrResourceNotFound.Because("There is no client key %q.", kms.Clip(clientKeyId))
}

func newClientKeyItem(k store.ClientKey) kms.ClientKeyItem {
	return kms.ClientKeyItem{
		AapName:       k.AapName,
		ClientKeyId:   k.ClientKeyId,
		CreateTime:    kms.FormatTime(k.CreationDate),
		KeyAlgorithm:  clientKeyAlgorithm,
		KeyOrigin:     clientKeyOrigin,
		NotAfter:      kms.FormatTime(k.NotAfter),
		NotBefore:     kms.FormatTime(k.NotBefore),
		PublicKeyData: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Certificate})),
	}
}

func getClientKey(_ context.Context, c *call, req *kms.ClientKeyRequest) (*kms.GetClientKeyResponse, error) {
	k, err := c.clientKey(req.ClientKeyId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	return &kms.GetClientKeyResponse{ClientKeyItem: newClientKeyItem(k)}, nil
}

func listClientKeys(_ context.Context, c *call, req *kms.ListClientKeysRequest) (*kms.ListClientKeysResponse, error) {
	if err := c.authorizeClientKeys(req.AapName); err != nil {
		return nil, err
	}
	if req.AapName != "" {
		if _, err := accessPoints.find(c.records, req.AapName); err != nil {
			return nil, err
		}
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := &kms.ListClientKeysResponse{ClientKeys: []kms.ClientKeyItem{}}
	for k := range c.records.ClientKeys().All() {
		if req.AapName == "" || k.AapName == req.AapName {
			resp.ClientKeys = append(resp.ClientKeys, newClientKeyItem(k))
		}
	}
	return resp, nil
}

// authorizeClientKeys asks for the action on the client keys of an access point,
// or of all of them if there is no name.
func (c *call) authorizeClientKeys(aapName string) error {
	if aapName == "" {
		return c.authorize(c.namedARN(anyName))
	}
	return c.authorizeNamed("AapName", aapName)
}

func deleteClientKey(_ context.Context, c *call, req *kms.ClientKeyRequest) (*kms.EmptyResponse, error) {
	k, err := c.clientKey(req.ClientKeyId)
	if err != nil {
		return nil, err
	}
	return done(c.update(func(tx *store.Tx) error {
		if !tx.ClientKeys().Has(k.ClientKeyId) {
			return noClientKey(k.ClientKeyId) // deleted by another call meanwhile
		}
		return tx.ClientKeys().Delete(k.ClientKeyId)
	}))
}
