package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// newInstanceId makes up an instance's id in the form of the real ones.
func newInstanceId() string { return "kst-" + strings.ToLower(rand.Text()[:20]) }

// provision makes what a dev gateway promises and the database lacks: an access
// key with full rights, and a key of each KeySpec with an alias. It goes through
// the gateway's local door, so it is authorised and audited like everything
// else. Cut off, it is completed by the next start.
func provision(ctx context.Context, a *appliance.Appliance) (environment, error) {
	server, db := a.Server, a.Store
	id, secret, err := devAccessKey(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("making an access key: %w", err)
	}
	env := environment{{"KMSGATE_ACCESS_KEY_ID", id}, {"KMSGATE_ACCESS_KEY_SECRET", secret}}
	for _, spec := range devKeySpecs {
		keyId, versionId, err := devKey(ctx, server, db, spec)
		if err != nil {
			return nil, fmt.Errorf("making a key of KeySpec %s: %w", spec, err)
		}
		env = append(env,
			[2]string{"KMSGATE_KEY_" + string(spec), keyId},
			[2]string{"KMSGATE_KEYVERSION_" + string(spec), versionId})
	}
	return env, nil
}

// devKeySpecs are those of the keys that a dev gateway has from the start.
// RSA_4096 is not among them: generating such a key takes seconds.
var devKeySpecs = []hsm.KeySpec{hsm.RSA_2048, hsm.RSA_3072, hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2}

// devAccessKey gives the dev user's access key, making both if there is none.
func devAccessKey(ctx context.Context, a *appliance.Appliance) (id, secret string, err error) {
	records := a.Store.Now()
	for k := range records.AccessKeys().All() {
		if k.UserName == devUser && k.Active {
			secret, err := a.Server.AccessKeySecret(k)
			return k.AccessKeyId, secret, err
		}
	}
	if !records.Users().Has(devUser) {
		if err := a.Server.Call(ctx, "CreateUser", map[string]string{"UserName": devUser, "Comments": "made by kmsgate dev"}, nil); err != nil {
			return "", "", err
		}
	}
	if err := attachFullAccess(ctx, a.Server, devUser); err != nil {
		return "", "", err
	}
	var made struct{ AccessKeyId, AccessKeySecret string }
	err = a.Server.Call(ctx, "CreateAccessKey", map[string]string{"UserName": devUser}, &made)
	return made.AccessKeyId, made.AccessKeySecret, err
}

// attachFullAccess lets a user do everything, if it may not already.
func attachFullAccess(ctx context.Context, server *gateway.Server, userName string) error {
	err := server.Call(ctx, "AttachPolicyToUser", map[string]string{"UserName": userName, "PolicyName": "AliyunKMSFullAccess"}, nil)
	if api := (*kms.Error)(nil); errors.As(err, &api) && api.Code == "EntityAlreadyExists.User.Policy" {
		return nil
	}
	return err
}

// devKey gives the key behind a KeySpec's dev alias, making what is missing.
func devKey(ctx context.Context, server *gateway.Server, db *store.Store, spec hsm.KeySpec) (keyId, versionId string, err error) {
	alias := "alias/dev-" + strings.ToLower(strings.ReplaceAll(string(spec), "_", "-"))
	// The description names the key for a start that was cut off before it had
	// its alias: the next one finds it and makes no second key.
	description := "made by kmsgate dev for " + alias
	keyId, err = findDevKey(db, alias, description)
	if errors.Is(err, store.ErrNotFound) {
		var made struct{ KeyMetadata struct{ KeyId string } }
		err = server.Call(ctx, "CreateKey", map[string]string{"KeySpec": string(spec), "Description": description}, &made)
		keyId = made.KeyMetadata.KeyId
	}
	if err != nil {
		return "", "", err
	}
	err = server.Call(ctx, "CreateAlias", map[string]string{"AliasName": alias, "KeyId": keyId}, nil)
	if api := (*kms.Error)(nil); err != nil && (!errors.As(err, &api) || api.Code != "AliasAlreadyExists") {
		return "", "", err
	}
	var listed struct {
		KeyVersions struct {
			KeyVersion []struct{ KeyVersionId string }
		}
	}
	if err := server.Call(ctx, "ListKeyVersions", map[string]string{"KeyId": keyId}, &listed); err != nil {
		return "", "", err
	}
	if len(listed.KeyVersions.KeyVersion) == 0 {
		return "", "", fmt.Errorf("key %s has no version", keyId)
	}
	return keyId, listed.KeyVersions.KeyVersion[0].KeyVersionId, nil
}

// findDevKey finds a key by its alias, or by its description.
func findDevKey(db *store.Store, aliasName, description string) (keyId string, err error) {
	records := db.Now()
	alias, err := records.Aliases().Get(aliasName)
	if err == nil {
		return alias.KeyId, nil
	}
	for k := range records.Keys().All() {
		if k.Description == description {
			return k.KeyId, nil
		}
	}
	return "", err
}
