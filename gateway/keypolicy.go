package gateway

import (
	"context"
	"encoding/json"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// defaultPolicy is the only valid PolicyName.
const defaultPolicy = "default"

func checkKeyPolicy(document string) error {
	if document == "" {
		return nil
	}
	if _, err := policy.ParseKeyPolicy(document); err != nil {
		return kms.InvalidParameter("Policy", "%s", err)
	}
	return nil
}

func checkPolicyName(name string) error {
	if name != "" && name != defaultPolicy {
		return kms.ErrResourceNotFound.Because("The only PolicyName is %q.", defaultPolicy)
	}
	return nil
}

func setKeyPolicy(_ context.Context, c *call, req *kms.SetKeyPolicyRequest) (*kms.EmptyResponse, error) {
	if err := checkKeyPolicy(req.Policy); err != nil {
		return nil, err
	}
	return emptyResponse(c.updateKey(req.KeyId, func(k *store.Key) error {
		if err := checkPolicyName(req.PolicyName); err != nil {
			return err
		}
		k.Policy = req.Policy
		return nil
	}))
}

func getKeyPolicy(_ context.Context, c *call, req *kms.GetKeyPolicyRequest) (*kms.GetKeyPolicyResponse, error) {
	key, err := c.key(req.KeyId)
	if err != nil {
		return nil, err
	}
	if err := checkPolicyName(req.PolicyName); err != nil {
		return nil, err
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	if key.Policy != "" {
		return &kms.GetKeyPolicyResponse{Policy: key.Policy}, nil
	}
	document, err := c.server.defaultKeyPolicy()
	return &kms.GetKeyPolicyResponse{Policy: document}, err
}

// defaultKeyPolicy returns the key policy that KMS shows for a key without one: the account
// may do everything. By itself it allows nobody anything here.
func (s *Server) defaultKeyPolicy() (string, error) {
	type ram struct{ RAM []string }
	type statement struct {
		Sid       string
		Effect    string
		Principal ram
		Action    []string
		Resource  []string
	}
	text, err := json.Marshal(struct {
		Version   string
		Statement []statement
	}{"1", []statement{{
		"kms default key policy", "Allow", ram{[]string{"acs:ram::" + s.instance.AccountId + ":*"}},
		[]string{"kms:*"}, []string{"*"},
	}}})
	return string(text), err
}
