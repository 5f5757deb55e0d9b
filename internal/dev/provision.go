package dev

import (
	"context"
	"crypto/rand"
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
// completes it. A key that is disabled or to be deleted stays so, and another one takes its alias;
// notices has a sentence about each, without a full stop.
func Provision(ctx context.Context, a *appliance.Appliance) (env Environment, notices []string, err error) {
	id, secret, err := ensureAccessKey(ctx, a)
	if err != nil {
		return nil, nil, fmt.Errorf("creating an access key: %w", err)
	}
	env = accessKeyEnvironment(id, secret)
	for _, spec := range keySpecs {
		k, err := ensureKey(ctx, a, spec)
		if err != nil {
			return nil, nil, fmt.Errorf("creating a key of KeySpec %s: %w", spec, err)
		}
		env = append(env,
			[2]string{"KMSGATE_KEY_" + string(spec), k.keyId},
			[2]string{"KMSGATE_KEYVERSION_" + string(spec), k.versionId})
		if k.notice != "" {
			notices = append(notices, k.notice)
		}
	}
	return env, notices, nil
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

// A devKey is the key of a KeySpec.
type devKey struct {
	keyId, versionId string
	notice           string // why it is not the key of the last start; empty if it is
}

// ensureKey returns a key of a KeySpec that can sign, and has the dev alias of the KeySpec name it.
// It creates whatever is missing.
func ensureKey(ctx context.Context, a *appliance.Appliance, spec hsm.KeySpec) (k devKey, err error) {
	alias := "alias/dev-" + strings.ToLower(strings.ReplaceAll(string(spec), "_", "-"))
	// If a start is interrupted before the key has its alias, the next start finds the key by
	// its description and creates no second key.
	description := "made by kmsgate dev for " + alias
	found := findKey(a.Store.Now(), spec, alias, description)
	if k.keyId = found.usable; k.keyId == "" {
		var created kms.CreateKeyResponse
		parameters := map[string]string{"KeySpec": string(spec), "Description": description}
		if err := a.Server.Call(ctx, "CreateKey", parameters, &created); err != nil {
			return devKey{}, err
		}
		k.keyId = created.KeyMetadata.KeyId
	}
	// Somebody can have given the alias to another key that can sign. It then stays there.
	if found.named.KeyId != k.keyId && found.named.KeyState != store.Enabled {
		if err := nameKey(ctx, a, alias, found.named, k.keyId); err != nil {
			return devKey{}, err
		}
		if old := found.unusable; old.KeyId != "" {
			k.notice = fmt.Sprintf("%s now names key %s, because key %s is %s", alias, k.keyId, old.KeyId, old.KeyState)
		}
	}
	var listed kms.ListKeyVersionsResponse
	if err := a.Server.Call(ctx, "ListKeyVersions", map[string]string{"KeyId": k.keyId}, &listed); err != nil {
		return devKey{}, err
	}
	if len(listed.KeyVersions.KeyVersion) == 0 {
		return devKey{}, fmt.Errorf("key %s has no version", k.keyId)
	}
	k.versionId = listed.KeyVersions.KeyVersion[0].KeyVersionId
	return k, nil
}

// nameKey has an alias name a key. named is the key that it names, or the zero Key.
func nameKey(ctx context.Context, a *appliance.Appliance, alias string, named store.Key, keyId string) error {
	action := "UpdateAlias"
	if named.KeyId == "" {
		action = "CreateAlias"
	}
	return a.Server.Call(ctx, action, map[string]string{"AliasName": alias, "KeyId": keyId}, nil)
}

// foundKeys are the keys for one KeySpec that earlier starts have left.
type foundKeys struct {
	named    store.Key // the key that the alias names; the zero Key if there is none
	usable   string    // the KeyId of the key to use; empty if there is none
	unusable store.Key // a key that would be used if it were enabled; the zero Key if there is none
}

// findKey looks for the key with the alias, or else with the description.
func findKey(records *store.Records, spec hsm.KeySpec, aliasName, description string) (found foundKeys) {
	var candidates []store.Key
	if alias, err := records.Aliases().Get(aliasName); err == nil {
		if k, err := records.Keys().Get(alias.KeyId); err == nil {
			found.named = k
			candidates = append(candidates, k)
		}
	}
	for k := range records.Keys().All() {
		if k.Description == description {
			candidates = append(candidates, k)
		}
	}
	for _, k := range candidates {
		switch {
		case k.KeySpec != spec:
		case k.KeyState != store.Enabled && found.unusable.KeyId == "":
			found.unusable = k
		case k.KeyState == store.Enabled && found.usable == "":
			found.usable = k.KeyId
		}
	}
	return found
}
