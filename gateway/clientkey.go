package gateway

import (
	"cmp"
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
	clientKeyYears     = 5 // validity if the request does not state one
)

// validity returns the first and the last moment at which a new client key is valid.
func validity(c *call, notBefore, notAfter string) (start, end time.Time, err error) {
	if notBefore == "" && notAfter == "" {
		start = c.now.Truncate(time.Second) // certificates have whole seconds
		return start, start.AddDate(clientKeyYears, 0, 0), nil
	}
	start, startErr := kms.ParseTime("NotBefore", notBefore)
	end, endErr := kms.ParseTime("NotAfter", notAfter)
	switch {
	case startErr != nil || endErr != nil:
		return start, end, errors.Join(startErr, endErr)
	case !end.After(start):
		return start, end, kms.InvalidParameter("NotAfter", "it must be after NotBefore")
	case !end.After(c.now):
		return start, end, kms.InvalidParameter("NotAfter", "it is in the past")
	}
	return start, end, nil
}

func createClientKey(
	ctx context.Context, c *call, req *kms.CreateClientKeyRequest,
) (*kms.CreateClientKeyResponse, error) {
	start, end, err := validity(c, req.NotBefore, req.NotAfter)
	if err := errors.Join(identity.CheckPassword(req.Password), err); err != nil {
		return nil, err
	}
	if err := authorizeNamed(c, "AapName", req.AapName); err != nil {
		return nil, err
	}
	k := store.ClientKey{ClientKeyId: cmp.Or(presetOf(ctx).ClientKeyId, clientKeyPrefix+uuid.NewString()), AapName: req.AapName,
		NotBefore: start, NotAfter: end, CreationDate: c.now}
	put := func(tx *store.Tx) error {
		if tx.ClientKeys().Len() >= identity.MaxClientKeys {
			return kms.ErrLimitExceeded.Because("There are %d client keys already.", identity.MaxClientKeys)
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
		return nil, fmt.Errorf("creating a client key: %w", err)
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

// findClientKey returns a client key, if the caller may do the action on the key's access
// point. It reveals that a client key does not exist only to callers who may do the action
// on all access points.
func findClientKey(c *call, clientKeyId string) (store.ClientKey, error) {
	c.entry.Subject = kms.Clip(clientKeyId)
	k, err := c.records.ClientKeys().Get(clientKeyId)
	if errors.Is(err, store.ErrNotFound) {
		if err := c.authorize(c.namedARN(anyName)); err != nil {
			return store.ClientKey{}, err
		}
		return store.ClientKey{}, clientKeyNotFound(clientKeyId)
	}
	if err != nil {
		return store.ClientKey{}, err
	}
	c.entry.Subject = k.AapName + "/" + k.ClientKeyId
	return k, c.authorize(c.namedARN(k.AapName))
}

// clientKeyNotFound returns the error for a client key that does not exist. Only authorised
// callers may receive it.
func clientKeyNotFound(clientKeyId string) error {
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

// authorizeClientKeys asks the caller's policies for the action on the client keys of an
// access point, or of all access points if aapName is empty.
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
	return emptyResponse(c.update(func(tx *store.Tx) error {
		if !tx.ClientKeys().Has(k.ClientKeyId) {
			return clientKeyNotFound(k.ClientKeyId) // another call has just deleted it
		}
		return tx.ClientKeys().Delete(k.ClientKeyId)
	}))
}
