package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/store"
)

// newInstanceId returns a random instance id in the form of real ones.
func newInstanceId() string { return "kst-" + strings.ToLower(rand.Text()[:20]) }

// Provision creates what the appliance lacks to be a dev gateway: an access key with full
// access, and a key with an alias for each KeySpec except RSA_4096. It calls the gateway, which
// authorises and audits its operations like all others. If it is interrupted, the next start
// completes it.
func Provision(ctx context.Context, a *appliance.Appliance) (Environment, error) {
	id, secret, err := ensureAccessKey(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("creating an access key: %w", err)
	}
	env := accessKeyEnvironment(id, secret)
	for _, spec := range keySpecs {
		keyId, versionId, err := ensureKey(ctx, a, spec)
		if err != nil {
			return nil, fmt.Errorf("creating a key of KeySpec %s: %w", spec, err)
		}
		env = append(env,
			[2]string{"KMSGATE_KEY_" + string(spec), keyId},
			[2]string{"KMSGATE_KEYVERSION_" + string(spec), versionId})
	}
	return env, nil
}

// accessKeyEnvironment returns the variables for an access key: ours, and those that the default chain
// of Alibaba Cloud's SDKs reads.
func accessKeyEnvironment(id, secret string) Environment {
	return Environment{
		{"KMSGATE_ACCESS_KEY_ID", id}, {"KMSGATE_ACCESS_KEY_SECRET", secret},
		{"ALIBABA_CLOUD_ACCESS_KEY_ID", id}, {"ALIBABA_CLOUD_ACCESS_KEY_SECRET", secret},
	}
}

// keySpecs are the KeySpecs of a new dev gateway's keys. RSA_4096 is left out because
// generating such a key takes seconds.
var keySpecs = []hsm.KeySpec{hsm.RSA_2048, hsm.RSA_3072, hsm.EC_P256, hsm.EC_P256K, hsm.EC_SM2}

// ensureAccessKey returns the dev user's access key. It creates the user and the key if they
// are missing.
func ensureAccessKey(ctx context.Context, a *appliance.Appliance) (id, secret string, err error) {
	records := a.Store.Now()
	for k := range records.AccessKeys().All() {
		if k.UserName == userName && k.Active {
			secret, err := a.Server.AccessKeySecret(k)
			return k.AccessKeyId, secret, err
		}
	}
	created, err := a.CreateAdministrator(ctx, userName, "made by kmsgate dev")
	return created.AccessKeyId, created.AccessKeySecret, err
}

// ensureKey returns the key and the version that the dev alias of a KeySpec points to. It
// creates whatever is missing.
func ensureKey(ctx context.Context, a *appliance.Appliance, spec hsm.KeySpec) (keyId, versionId string, err error) {
	alias := "alias/dev-" + strings.ToLower(strings.ReplaceAll(string(spec), "_", "-"))
	// If a start is interrupted before the key has its alias, the next start finds the key by
	// its description and creates no second key.
	description := "made by kmsgate dev for " + alias
	keyId, err = findKey(a.Store, alias, description)
	if errors.Is(err, store.ErrNotFound) {
		var created kms.CreateKeyResponse
		parameters := map[string]string{"KeySpec": string(spec), "Description": description}
		err = a.Server.Call(ctx, "CreateKey", parameters, &created)
		keyId = created.KeyMetadata.KeyId
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

// findKey returns the KeyId of the key with the alias, or else with the description. If
// neither exists, the error is store.ErrNotFound.
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
