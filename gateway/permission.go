package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/kms"
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
// act as.
func (s *Server) accessPointPrincipal(records *store.Records, aapName string) (*principal, error) {
	aap, err := records.AccessPoints().Get(aapName)
	if errors.Is(err, store.ErrNotFound) {
		return nil, kms.ErrAccessKeyNotFound // deleted meanwhile, and its client keys with it
	}
	return &principal{user: store.User{UserName: accessPointUser + aap.Name}, arn: s.arns.Resource(accessPointKind + "/" + aap.Name), accessPoint: aap.Name}, err
}

// decideForAccessPoint decides by an access point's permission policies and, if that
// is a key, by those of the key.
func (s *Server) decideForAccessPoint(records *store.Records, p *principal, r policy.Request, ofKey []policy.Named) policy.Decision {
	permitted := s.permitted(records, p.accessPoint, r)
	if !permitted.Allowed {
		return permitted
	}
	// Key policies know users and roles only. To them it is a user whom none of them
	// can name, so that a Deny for all users is one for it, too; and of their Allow it
	// has nothing, for it is allowed already.
	r.Principal = s.arns.User(p.user.UserName)
	if d := policy.Decide(append(rootPolicies[:1:1], ofKey...), r); !d.Allowed {
		return d
	}
	return permitted
}

// permitted evaluates the permission policies of an access point, and their rules, as
// they are now. Whatever is not there permits nothing.
func (s *Server) permitted(records *store.Records, aapName string, r policy.Request) policy.Decision {
	d := policy.Decision{Reason: "no permission policy permits it"}
	source, _ := netip.ParseAddr(r.Values["acs:SourceIp"]) // of which no rule lets in a zero one
	aap, _ := records.AccessPoints().Get(aapName)
	for _, name := range aap.Policies {
		p, _ := records.PermissionPolicies().Get(name)
		switch {
		case !slices.Contains(p.Permissions, keyUser) || !s.covers(p.Resources, r):
		case letsIn(records, p.NetworkRules, source.Unmap()):
			return policy.Decision{Allowed: true, Reason: fmt.Sprintf("allowed by permission policy %q", name), Policy: name}
		default: // and the next may permit it from here
			d.Reason = keptOut(records, p, source)
		}
	}
	return d
}

// keptOut says how a permission policy permits something that it does not permit
// from an address.
func keptOut(records *store.Records, p store.PermissionPolicy, source netip.Addr) string {
	from := "from other addresses only"
	switch {
	case !slices.ContainsFunc(p.NetworkRules, records.NetworkRules().Has):
		from = "from nowhere: the network rules that it names are gone"
	case !source.IsValid(): // in a simulation
		from = "from some addresses only, and none is given"
	}
	return fmt.Sprintf("permission policy %q permits it %s", p.Name, from)
}

// covers reports whether what is asked for is among what keyUser permits with some
// resources.
func (s *Server) covers(resources []string, r policy.Request) bool {
	if r.Action == "kms:"+randomAction {
		return r.Resource == s.arns.Resource(keyless[randomAction])
	}
	keyId, ok := strings.CutPrefix(r.Resource, s.arns.Key(""))
	return ok && slices.Contains(keyUserActions, r.Action) && slices.ContainsFunc(resources, func(resource string) bool {
		name, ok := strings.CutPrefix(resource, "key/")
		if beginning, many := strings.CutSuffix(name, "*"); many {
			return ok && strings.HasPrefix(keyId, beginning)
		}
		return ok && keyId == name
	})
}

// letsIn reports whether one of the rules lets an address in, or there are none.
func letsIn(records *store.Records, rules []string, source netip.Addr) bool {
	return len(rules) == 0 || slices.ContainsFunc(rules, func(name string) bool {
		rule, _ := records.NetworkRules().Get(name)
		return slices.ContainsFunc(rule.SourcePrivateIp, func(from string) bool {
			prefix, ok := parseSource(from)
			return ok && prefix.Contains(source)
		})
	})
}
