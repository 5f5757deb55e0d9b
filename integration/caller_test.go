package integration

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/hsm"
)

// A caller of a ledger creates a key, and either signs with it or makes changes to it. After an
// answer that leaves open what has happened, and after some changes, it continues with another key.
type caller struct {
	*ledger
	t      *testing.T
	client *kms.Client
	random *rand.Rand
	spec   hsm.KeySpec
	name   string
	signs  bool

	names            int    // how many names it has given
	keyId, versionId string // the key in use; empty if there is none
	alias            string // an alias of that key; empty if there is none
	changesLeft      int    // of that key
}

// changesOfKey is the number of changes to one key. Its tags are then fewer than 20, the limit.
const changesOfKey = 12

// callerPause returns the pause of a caller between two requests. It limits the number of keys that
// a test has to read at its end.
func callerPause() time.Duration {
	if *soak > 0 {
		return 250 * time.Millisecond
	}
	return 40 * time.Millisecond
}

func (c *caller) run() {
	for ; !c.stopping.Load(); <-time.After(callerPause()) {
		switch {
		case c.keyId == "":
			c.create()
		case c.signs:
			_, _, _, err := newSDK{c.client}.sign(c.keyId, c.versionId, hsm.Algorithms(c.spec)[0], make([]byte, hsm.DigestSize))
			c.record(c.t, signing, err)
		default:
			certain := c.changeKey()
			if c.changesLeft--; !certain || c.changesLeft == 0 && !c.steady {
				c.keyId, c.alias = "", ""
			}
		}
	}
}

// newName returns a name that no caller of the ledger has given.
func (c *caller) newName() string {
	c.names++
	return fmt.Sprintf("%s-%d", c.name, c.names)
}

// create creates a key. A tag tells which creation it was, even if the answer is lost.
func (c *caller) create() {
	name, keyId := c.newName(), ""
	created := c.change(c.t, fact{creation, name}, func() (string, error) {
		resp, err := c.client.CreateKey(&kms.CreateKeyRequest{
			KeySpec: tea.String(string(c.spec)), Description: &name, Tags: tags(creation, name)})
		if err != nil {
			return anything, err
		}
		keyId = tea.StringValue(resp.Body.KeyMetadata.KeyId)
		return keyId, nil
	})
	if !created {
		return
	}
	c.set(fact{description, keyId}, name)
	c.set(fact{state, keyId}, "Enabled")
	listed, err := c.client.ListKeyVersions(&kms.ListKeyVersionsRequest{KeyId: &keyId})
	if c.record(c.t, reading, err) != answered {
		return
	}
	versionId := tea.StringValue(listed.Body.KeyVersions.KeyVersion[0].KeyVersionId)
	c.set(fact{version, keyId + " " + versionId}, signs)
	c.keyId, c.versionId, c.changesLeft = keyId, versionId, changesOfKey
}

// tags returns the parameter Tags with one tag.
func tags(name, value string) *string {
	return tea.String(fmt.Sprintf(`[{"TagKey":%q,"TagValue":%q}]`, name, value))
}

// changeKey makes one change to the key in use. It returns false if the key must not be used any
// more.
func (c *caller) changeKey() bool {
	choices := []int{0, 1, 2, 3, 4, 5, 6}
	if c.steady {
		choices = []int{1, 2, 4, 5, 6}
	}
	switch choices[c.random.IntN(len(choices))] {
	case 0:
		return c.createVersion()
	case 1, 2:
		if c.alias != "" {
			return c.deleteAlias()
		}
		return c.createAlias()
	case 3:
		name, value := c.newName(), c.newName()
		return c.change(c.t, fact{tag, c.keyId + " " + name}, func() (string, error) {
			_, err := c.client.TagResource(&kms.TagResourceRequest{KeyId: &c.keyId, Tags: tags(name, value)})
			return value, err
		})
	case 4:
		text := c.newName()
		return c.change(c.t, fact{description, c.keyId}, func() (string, error) {
			_, err := c.client.UpdateKeyDescription(
				&kms.UpdateKeyDescriptionRequest{KeyId: &c.keyId, Description: &text})
			return text, err
		})
	case 5:
		return c.disable()
	}
	return c.tryForbidden()
}

func (c *caller) createVersion() bool {
	resp, err := c.client.CreateKeyVersion(&kms.CreateKeyVersionRequest{KeyId: &c.keyId})
	if c.record(c.t, changing, err) != answered {
		return false
	}
	versionId := tea.StringValue(resp.Body.KeyVersion.KeyVersionId)
	c.set(fact{version, c.keyId + " " + versionId}, signs)
	return true
}

func (c *caller) createAlias() bool {
	name := "alias/" + c.newName()
	created := c.change(c.t, fact{aliasOf, name}, func() (string, error) {
		_, err := c.client.CreateAlias(&kms.CreateAliasRequest{AliasName: &name, KeyId: &c.keyId})
		return c.keyId, err
	})
	if created {
		c.alias = name
	}
	return created
}

func (c *caller) deleteAlias() bool {
	name := c.alias
	c.alias = ""
	return c.change(c.t, fact{aliasOf, name}, func() (string, error) {
		_, err := c.client.DeleteAlias(&kms.DeleteAliasRequest{AliasName: &name})
		return "", err
	})
}

// disable disables the key. It mostly enables the key again.
func (c *caller) disable() bool {
	disabled := c.change(c.t, fact{state, c.keyId}, func() (string, error) {
		_, err := c.client.DisableKey(&kms.DisableKeyRequest{KeyId: &c.keyId})
		return "Disabled", err
	})
	if !disabled || !c.steady && c.random.IntN(4) == 0 {
		return false
	}
	return c.change(c.t, fact{state, c.keyId}, func() (string, error) {
		_, err := c.client.EnableKey(&kms.EnableKeyRequest{KeyId: &c.keyId})
		return "Enabled", err
	})
}

// tryForbidden tries to create an alias of a key that does not exist.
func (c *caller) tryForbidden() bool {
	name := "alias/" + c.newName()
	_, err := c.client.CreateAlias(&kms.CreateAliasRequest{AliasName: &name, KeyId: tea.String("none")})
	c.record(c.t, forbidden, err)
	c.set(fact{aliasOf, name}, "")
	return true
}
