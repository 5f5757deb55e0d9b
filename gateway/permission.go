package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// What a permission policy can permit: the names of KMS's templates.
const (
	keyUser    = "RbacPermission/Template/CryptoServiceKeyUser"
	secretUser = "RbacPermission/Template/CryptoServiceSecretUser" // there are no secrets here, so it permits nothing
)

// keyUserActions are what keyUser permits with a key, and randomAction is what it
// permits besides.
var keyUserActions = []string{"kms:AsymmetricSign", "kms:AsymmetricVerify", "kms:GetPublicKey"}

const randomAction = "GenerateRandom"

// permissionResource is what a permission policy can name: nothing in it but a *
// at the end is a wildcard.
var permissionResource = regexp.MustCompile(`^(key/([A-Za-z0-9-]{1,64}\*?|\*)|secret/([A-Za-z0-9_/+=.@-]{1,192}\*?|\*))$`)

// accessPointUser begins the names under which client keys act. No user can have
// such a name.
const accessPointUser = "aap:"

// accessPointPrincipal gives the principal that the client keys of an access point
// act as, with the policies and rules as they are now.
func (s *Server) accessPointPrincipal(tx *store.Tx, aapName string) (*principal, error) {
	aap, err := tx.AccessPoint(aapName)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errAccessKeyNotFound // deleted meanwhile, and its client keys with it
	}
	if err != nil {
		return nil, err
	}
	p := &principal{user: store.User{UserName: accessPointUser + aap.Name}, arn: s.arn(accessPointKind + "/" + aap.Name), accessPoint: true}
	for _, name := range aap.Policies {
		permissions, err := s.permissions(tx, name)
		if err != nil {
			return nil, fmt.Errorf("the permission policy %s of access point %s: %w", name, aap.Name, err)
		}
		p.policies = append(p.policies, permissions...)
	}
	return p, nil
}

// permissions gives what a permission policy permits as RAM policies: one for all
// addresses, or one for each network rule, which all together may be larger than
// one document can be. Of a policy or a rule that is gone there is none, so that
// nobody is let in by its absence.
func (s *Server) permissions(tx *store.Tx, policyName string) (all []policy.Named, err error) {
	p, err := tx.PermissionPolicy(policyName)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil || !slices.Contains(p.Permissions, keyUser) {
		return nil, err
	}
	for _, from := range sources(tx, p) {
		document, err := s.permissionDocument(p.Resources, from)
		if err != nil {
			return nil, err
		}
		parsed, err := s.policies.get(document)
		if err != nil {
			return nil, err
		}
		all = append(all, policy.Named{Name: p.Name, Policy: parsed})
	}
	return all, nil
}

// sources gives the addresses of each network rule of a permission policy, and nil
// for all addresses if the policy has no rules.
func sources(tx *store.Tx, p store.PermissionPolicy) (all [][]string) {
	if len(p.NetworkRules) == 0 {
		return [][]string{nil}
	}
	for _, name := range p.NetworkRules {
		if rule, err := tx.NetworkRule(name); err == nil && len(rule.SourcePrivateIp) > 0 {
			all = append(all, rule.SourcePrivateIp)
		}
	}
	return all
}

// A permissionStatement is a statement of a RAM policy that allows something.
type permissionStatement struct {
	Effect    string
	Action    []string
	Resource  []string
	Condition map[string]map[string][]string `json:",omitempty"`
}

// permissionDocument writes a RAM policy that allows what keyUser permits with
// some resources, to some addresses or, if there are none, to all.
func (s *Server) permissionDocument(resources, from []string) (string, error) {
	var conditions map[string]map[string][]string
	if len(from) > 0 {
		conditions = map[string]map[string][]string{"IpAddress": {"acs:SourceIp": from}}
	}
	statements := []permissionStatement{{"Allow", []string{"kms:" + randomAction}, []string{s.arn(keyless[randomAction])}, conditions}}
	if keys := s.permittedKeys(resources); len(keys) > 0 {
		statements = append(statements, permissionStatement{"Allow", keyUserActions, keys, conditions})
	}
	text, err := json.Marshal(struct {
		Version   string
		Statement []permissionStatement
	}{"1", statements})
	return string(text), err
}

// permittedKeys gives those of a permission policy's resources that are keys, as
// ARNs. What CreatePolicy would not have taken is none of them.
func (s *Server) permittedKeys(resources []string) (arns []string) {
	for _, r := range resources {
		if strings.HasPrefix(r, "key/") && permissionResource.MatchString(r) {
			arns = append(arns, s.arn(r))
		}
	}
	return arns
}
