package integration

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// A fact is something about the records that has one value at a time. The value is empty if the
// subject does not exist.
type fact struct{ kind, subject string }

// The kinds of facts, with their subjects and values.
const (
	creation    = "creation"    // a name → the KeyId
	state       = "state"       // a KeyId → the KeyState
	description = "description" // a KeyId → the Description
	tag         = "tag"         // a KeyId and a TagKey → the TagValue
	aliasOf     = "alias"       // an AliasName → the KeyId
	version     = "version"     // a KeyId and a KeyVersionId → signs
)

const (
	signs    = "signs"
	anything = "*" // as the possible value of a fact
)

// keyIs begins the value of a version whose key cannot sign.
const keyIs = "the key is "

// readFacts reads the values of all facts from a gateway.
func readFacts(t *testing.T, env map[string]string) map[fact]string {
	t.Helper()
	client := require[*kms.Client](t)(devgateway.SDK(env))
	all, keys := make(map[fact]string), make(chan string, 100)
	var mu sync.Mutex // guards all
	var readers sync.WaitGroup
	for range 8 {
		reader := require[*kms.Client](t)(devgateway.SDK(env)) // clients are not safe for concurrent use
		readers.Go(func() {
			for keyId := range keys {
				facts, err := readKey(reader, keyId)
				if err != nil {
					t.Errorf("reading key %s: %v", keyId, err)
				}
				mu.Lock()
				maps.Copy(all, facts)
				mu.Unlock()
			}
		})
	}
	aliases := make(map[fact]string)
	for page := int32(1); ; page++ {
		listed := require[*kms.ListAliasesResponse](t)(client.ListAliases(
			&kms.ListAliasesRequest{PageNumber: &page, PageSize: tea.Int32(100)})).Body.Aliases.Alias
		for _, a := range listed {
			aliases[fact{aliasOf, tea.StringValue(a.AliasName)}] = tea.StringValue(a.KeyId)
		}
		if len(listed) == 0 {
			break
		}
	}
	for page := int32(1); ; page++ {
		listed := require[*kms.ListKeysResponse](t)(client.ListKeys(
			&kms.ListKeysRequest{PageNumber: &page, PageSize: tea.Int32(100)})).Body.Keys.Key
		for _, k := range listed {
			keys <- tea.StringValue(k.KeyId)
		}
		if len(listed) == 0 {
			break
		}
	}
	close(keys)
	readers.Wait()
	maps.Copy(all, aliases)
	return all
}

// readKey reads the facts about one key, and signs with each of its versions.
func readKey(client *kms.Client, keyId string) (map[fact]string, error) {
	facts := make(map[fact]string)
	described, err := client.DescribeKey(&kms.DescribeKeyRequest{KeyId: &keyId})
	if err != nil {
		return nil, err
	}
	key := described.Body.KeyMetadata
	keyState, spec := tea.StringValue(key.KeyState), hsm.KeySpec(tea.StringValue(key.KeySpec))
	facts[fact{state, keyId}], facts[fact{description, keyId}] = keyState, tea.StringValue(key.Description)
	tags, err := client.ListResourceTags(&kms.ListResourceTagsRequest{KeyId: &keyId})
	if err != nil {
		return nil, err
	}
	for _, one := range tags.Body.Tags.Tag {
		if name, value := tea.StringValue(one.TagKey), tea.StringValue(one.TagValue); name == creation {
			facts[fact{creation, value}] = keyId
		} else {
			facts[fact{tag, keyId + " " + name}] = value
		}
	}
	versions, err := client.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: &keyId, PageSize: tea.Int32(100)})
	if err != nil {
		return nil, err
	}
	for _, v := range versions.Body.KeyVersions.KeyVersion {
		versionId := tea.StringValue(v.KeyVersionId)
		value := keyIs + keyState
		if keyState == "Enabled" {
			value = signs
			if err := signAndVerify(newSDK{client}, keyId, versionId, hsm.Algorithms(spec)[0]); err != nil {
				value = err.Error()
			}
		}
		facts[fact{version, keyId + " " + versionId}] = value
	}
	return facts, nil
}

// signAndVerify signs with a version and verifies the signature with AsymmetricVerify.
func signAndVerify(c newSDK, keyId, versionId string, alg hsm.Algorithm) error {
	digest := make([]byte, hsm.DigestSize)
	digest[0] = 1
	_, _, sig, err := c.sign(keyId, versionId, alg, digest)
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	ok, err := c.verify(keyId, versionId, alg, digest, sig)
	if err == nil && !ok {
		err = errors.New("the signature does not verify")
	}
	return err
}
