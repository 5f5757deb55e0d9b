package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// newInstanceId makes up an instance's id in the form of the real ones.
func newInstanceId() string { return "kst-" + strings.ToLower(rand.Text()[:20]) }

// Provision makes what a dev gateway promises and the appliance lacks: an access key with
// full rights, and a key of each KeySpec with an alias. It goes through the gateway's local
// door, so it is authorised and audited like everything else. If it is cut off, the next
// start completes it.
func Provision(ctx context.Context, a *appliance.Appliance) (Environment, error) {
	id, secret, err := accessKey(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("making an access key: %w", err)
	}
	env := Environment{{"KMSGATE_ACCESS_KEY_ID", id}, {"KMSGATE_ACCESS_KEY_SECRET", secret}}
	for _, spec := range keySpecs {
		keyId, versionId, err := key(ctx, a, spec)
		if err != nil {
			return nil, fmt.Errorf("making a key of KeySpec %s: %w", spec, err)
		}
		env = append(env,
			[2]string{"KMSGATE_KEY_" + string(spec), keyId},
			[2]string{"KMSGATE_KEYVERSION_" + string(spec), versionId})
	}
	return env, nil
}

// keySpecs are those of the keys that a dev gateway has from the start.
// RSA_4096 is not among them: generating such a key takes seconds.
var keySpecs = []hsm.KeySpec{hsm.RSA_2048, hsm.RSA_3072, hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2}

// accessKey returns the dev user's access key, and makes both if there is none.
func accessKey(ctx context.Context, a *appliance.Appliance) (id, secret string, err error) {
	records := a.Store.Now()
	for k := range records.AccessKeys().All() {
		if k.UserName == userName && k.Active {
			secret, err := a.Server.AccessKeySecret(k)
			return k.AccessKeyId, secret, err
		}
	}
	made, err := a.CreateAdministrator(ctx, userName, "made by kmsgate dev")
	return made.AccessKeyId, made.AccessKeySecret, err
}

// key returns the key behind a KeySpec's dev alias, and makes what is missing.
func key(ctx context.Context, a *appliance.Appliance, spec hsm.KeySpec) (keyId, versionId string, err error) {
	alias := "alias/dev-" + strings.ToLower(strings.ReplaceAll(string(spec), "_", "-"))
	// The description names the key for a start that was cut off before it had
	// its alias: the next one finds it and makes no second key.
	description := "made by kmsgate dev for " + alias
	keyId, err = findKey(a.Store, alias, description)
	if errors.Is(err, store.ErrNotFound) {
		var made kms.CreateKeyResponse
		err = a.Server.Call(ctx, "CreateKey", map[string]string{"KeySpec": string(spec), "Description": description}, &made)
		keyId = made.KeyMetadata.KeyId
	}
	if err != nil {
		return "", "", err
	}
	err = a.Server.Call(ctx, "CreateAlias", map[string]string{"AliasName": alias, "KeyId": keyId}, nil)
	if err != nil && !errors.Is(err, kms.ErrAliasExists) {
		return "", "", err
	}
	var listed kms.ListKeyVersionsResponse
	if err := a.Server.Call(ctx, "ListKeyVersions", map[string]string{"KeyId": keyId}, &listed); err != nil {
		return "", "", err
	}
	if len(listed.KeyVersions.KeyVersion) == 0 {
		return "", "", fmt.Errorf("key %s has no version", keyId)
	}
	return keyId, listed.KeyVersions.KeyVersion[0].KeyVersionId, nil
}

// findKey finds a key by its alias, or by its description.
func findKey(db *store.Store, aliasName, description string) (keyId string, err error) {
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
