package gateway

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

const (
	clientKeyPrefix    = "KAAP."
	clientKeyAlgorithm = "RSA_2048"
	clientKeyOrigin    = "KMS_PROVIDED"
	clientKeyYears     = 5 // that one is good for if its creator does not say otherwise
)

// validity gives from when to when a client key is to be good.
func validity(c *call, notBefore, notAfter string) (from, to time.Time, err error) {
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
	from, to, err := validity(c, req.NotBefore, req.NotAfter)
	if err := errors.Join(identity.CheckPassword(req.Password), err); err != nil {
		return nil, err
	}
	if err := authorizeNamed(c, "AapName", req.AapName); err != nil {
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
	if err := c.prepare(put); err != nil {
		return nil, err
	}
	pfx, err := identity.MakeClientKey(&k, req.Password)
	if err != nil {
		return nil, fmt.Errorf("making a client key: %w", err)
	}
	if err := identity.SealClientKey(ctx, c.server.config.Sealer, &k); err != nil {
		return nil, err
	}
	c.entry.Subject = k.AapName + "/" + k.ClientKeyId
	if err := c.write(put); err != nil {
		return nil, err
	}
	return &kms.CreateClientKeyResponse{ClientKeyId: k.ClientKeyId, KeyAlgorithm: clientKeyAlgorithm,
		NotAfter: kms.FormatTime(k.NotAfter), NotBefore: kms.FormatTime(k.NotBefore), PrivateKeyData: pfx}, nil
}

// findClientKey gives a client key, if the caller may do what it asks for with its
// access point's. That there is none is told only to who may with every access
// point's.
func findClientKey(c *call, clientKeyId string) (store.ClientKey, error) {
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
	k, err := findClientKey(c, req.ClientKeyId)
	if err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	return &kms.GetClientKeyResponse{ClientKeyItem: newClientKeyItem(k)}, nil
}

func listClientKeys(_ context.Context, c *call, req *kms.ListClientKeysRequest) (*kms.ListClientKeysResponse, error) {
	if err := authorizeClientKeys(c, req.AapName); err != nil {
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
func authorizeClientKeys(c *call, aapName string) error {
	if aapName == "" {
		return c.authorize(c.namedARN(anyName))
	}
	return authorizeNamed(c, "AapName", aapName)
}

func deleteClientKey(_ context.Context, c *call, req *kms.ClientKeyRequest) (*kms.EmptyResponse, error) {
	k, err := findClientKey(c, req.ClientKeyId)
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
