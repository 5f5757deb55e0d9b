package identity

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

// The permissions of permission policies, which are names of KMS's templates.
const (
	// KeyUser permits signing, verifying, reading public keys, and random bytes.
	KeyUser = "RbacPermission/Template/CryptoServiceKeyUser"
	// SecretUser permits nothing: the gateway has no secrets.
	SecretUser = "RbacPermission/Template/CryptoServiceSecretUser"
)

// keyUserActions are what KeyUser permits with a key, and randomAction is what it
// permits besides.
var keyUserActions = []string{"kms:AsymmetricSign", "kms:AsymmetricVerify", "kms:GetPublicKey"}

const randomAction = "GenerateRandom"

// IsPermissionResource reports whether a permission policy can contain a resource: a key/ or
// secret/ with a name, whose last character can be the wildcard *.
func IsPermissionResource(resource string) bool { return permissionResource.MatchString(resource) }

var permissionResource = regexp.MustCompile(`^(key/([A-Za-z0-9-]{1,64}\*?|\*)|secret/([A-Za-z0-9_/+=.@-]{1,192}\*?|\*))$`)

// AccessPointUser is the prefix of the names of principals that are access points. No user
// can have such a name.
const AccessPointUser = "aap:"

// AccessPointKind is the type of access points in ARNs.
const AccessPointKind = "applicationaccesspoint"

// AccessPoint returns the principal of an access point's client keys. Its error is
// kms.ErrAccessKeyNotFound if there is no such access point.
func (r *Registry) AccessPoint(records *store.Records, aapName string) (*Principal, error) {
	aap, err := records.AccessPoints().Get(aapName)
	if errors.Is(err, store.ErrNotFound) {
		return nil, kms.ErrAccessKeyNotFound // deleted meanwhile, and its client keys with it
	}
	if err != nil {
		return nil, err
	}
	return &Principal{Name: AccessPointUser + aap.Name, arn: r.arns.Resource(AccessPointKind + "/" + aap.Name), accessPoint: aap.Name}, nil
}

// decideForAccessPoint decides by an access point's permission policies and, if that
// is a key, by those of the key.
func (r *Registry) decideForAccessPoint(records *store.Records, p *Principal, request policy.Request, ofKey []policy.Named) policy.Decision {
	permitted := r.permitted(records, p.accessPoint, request)
	if !permitted.Allowed {
		return permitted
	}
	// Key policies know users and roles only. To them it is a user whom none of them
	// can name, so that a Deny for all users is one for it, too; and of their Allow it
	// has nothing, for it is allowed already.
	request.Principal = r.arns.User(p.Name)
	if d := policy.Decide(append(rootPolicies[:1:1], ofKey...), request); !d.Allowed {
		return d
	}
	return permitted
}

// permitted evaluates the permission policies of an access point, and their rules, as
// they are now. Whatever is not there permits nothing.
func (r *Registry) permitted(records *store.Records, aapName string, request policy.Request) policy.Decision {
	d := policy.Decision{Reason: "no permission policy permits it"}
	source, _ := netip.ParseAddr(request.Values["acs:SourceIp"]) // of which no rule lets in a zero one
	aap, _ := records.AccessPoints().Get(aapName)
	for _, name := range aap.Policies {
		p, _ := records.PermissionPolicies().Get(name)
		switch {
		case !slices.Contains(p.Permissions, KeyUser) || !r.covers(p.Resources, request):
		case letsIn(records, p.NetworkRules, source.Unmap()):
			return policy.Decision{Allowed: true, Reason: fmt.Sprintf("allowed by permission policy %q", name), Policy: name}
		default: // and the next may permit it from here
			d.Reason = whyDenied(records, p, source)
		}
	}
	return d
}

// whyDenied says how a permission policy permits something that it does not permit
// from an address.
func whyDenied(records *store.Records, p store.PermissionPolicy, source netip.Addr) string {
	from := "from other addresses only"
	switch {
	case !slices.ContainsFunc(p.NetworkRules, records.NetworkRules().Has):
		from = "from nowhere: the network rules that it names are gone"
	case !source.IsValid(): // in a simulation
		from = "from some addresses only, and none is given"
	}
	return fmt.Sprintf("permission policy %q permits it %s", p.Name, from)
}

// covers reports whether what is asked for is among what KeyUser permits with some
// resources.
func (r *Registry) covers(resources []string, request policy.Request) bool {
	if request.Action == "kms:"+randomAction {
		return request.Resource == r.arns.Resource("*")
	}
	keyId, ok := strings.CutPrefix(request.Resource, r.arns.Key(""))
	return ok && slices.Contains(keyUserActions, request.Action) && slices.ContainsFunc(resources, func(resource string) bool {
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
			prefix, ok := ParseSource(from)
			return ok && prefix.Contains(source)
		})
	})
}

// ParseSource parses the source of a network rule: an address or a prefix. Bits beyond the
// length of a prefix, which KMS's own examples set, are ignored. It is not ok for an IPv4
// address in IPv6 form: such a prefix does not contain what it seems to.
func ParseSource(source string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(source)
	if a, addrErr := netip.ParseAddr(source); addrErr == nil && a.Zone() == "" {
		prefix, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	return prefix.Masked(), err == nil && !prefix.Addr().Is4In6()
}
