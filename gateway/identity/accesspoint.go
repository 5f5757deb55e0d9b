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

// The permissions that a permission policy can contain. KMS calls them templates.
const (
	// KeyUser permits signing, verifying, reading public keys, and random bytes.
	KeyUser = "RbacPermission/Template/CryptoServiceKeyUser"
	// SecretUser permits nothing, because the gateway has no secrets.
	SecretUser = "RbacPermission/Template/CryptoServiceSecretUser"
)

// keyUserActions are the actions that KeyUser permits with a key. It also permits
// randomAction, which needs no key.
var keyUserActions = []string{"AsymmetricSign", "AsymmetricVerify", "GetPublicKey"}

const randomAction = "GenerateRandom"

// IsPermissionResource reports whether a permission policy can contain a resource: key/ or
// secret/ followed by a name, whose last character can be the wildcard *.
func IsPermissionResource(resource string) bool { return permissionResource.MatchString(resource) }

var permissionResource = regexp.MustCompile(
	`^(key/([A-Za-z0-9-]{1,64}\*?|\*)|secret/([A-Za-z0-9_/+=.@-]{1,192}\*?|\*))$`)

// AccessPointUser is the prefix of the name of a principal that is an access point. The name
// of a user cannot start with it.
const AccessPointUser = "aap:"

// AccessPointKind is the resource type of access points in ARNs.
const AccessPointKind = "applicationaccesspoint"

// AccessPoint returns the principal of an access point's client keys. Its error is
// kms.ErrAccessKeyNotFound if there is no such access point.
func (r *Registry) AccessPoint(records *store.Records, aapName string) (*Principal, error) {
	aap, err := records.AccessPoints().Get(aapName)
	if errors.Is(err, store.ErrNotFound) {
		return nil, kms.ErrAccessKeyNotFound // deleted since, together with its client keys
	}
	if err != nil {
		return nil, err
	}
	return &Principal{
		Name:        AccessPointUser + aap.Name,
		arn:         r.arns.Resource(AccessPointKind + "/" + aap.Name),
		accessPoint: aap.Name,
	}, nil
}

// decideForAccessPoint evaluates the permission policies of an access point, and then
// keyPolicies, which can only deny what these permit.
func (r *Registry) decideForAccessPoint(
	records *store.Records, p *Principal, action string, request policy.Request, keyPolicies []policy.Named,
) policy.Decision {
	permitted := r.permitted(records, p.accessPoint, action, request)
	if !permitted.Allowed {
		return permitted
	}
	// Key policies know only users and roles. They see the access point as a user with a
	// name that no key policy can contain, so a Deny for all users applies to it, too. Their
	// Allow statements do not matter, because the permission policies have allowed the
	// request.
	request.Principal = r.arns.User(p.Name)
	if d := policy.Decide(append(rootPolicies[:1:1], keyPolicies...), request); !d.Allowed {
		return d
	}
	return permitted
}

// permitted evaluates the permission policies of an access point with their network rules.
// An access point, policy or rule that does not exist permits nothing.
func (r *Registry) permitted(records *store.Records, aapName, action string, request policy.Request) policy.Decision {
	d := policy.Decision{Cause: "no permission policy permits it"}
	address, _ := request.Value("acs:SourceIp")
	source, _ := netip.ParseAddr(address) // no rule admits the zero address
	aap, _ := records.AccessPoints().Get(aapName)
	for _, name := range aap.Policies {
		p, _ := records.PermissionPolicies().Get(name)
		switch {
		case !slices.Contains(p.Permissions, KeyUser) || !r.covers(p.Resources, action, request.Resource):
		case admits(records, p.NetworkRules, source.Unmap()):
			return policy.Decision{Allowed: true, Cause: fmt.Sprintf("allowed by permission policy %q", name), Policy: name}
		default: // another policy may permit it from this address
			d.Cause = whyDenied(records, p, source)
		}
	}
	return d
}

// whyDenied explains why a permission policy, which permits a request as such, does not
// permit it from an address.
func whyDenied(records *store.Records, p store.PermissionPolicy, source netip.Addr) string {
	condition := "only from other addresses"
	switch {
	case !slices.ContainsFunc(p.NetworkRules, records.NetworkRules().Has):
		condition = "from no address: its network rules no longer exist"
	case !source.IsValid(): // a simulation without a source address
		condition = "only from certain addresses, but no address is given"
	}
	return fmt.Sprintf("permission policy %q permits it %s", p.Name, condition)
}

// covers reports whether KeyUser permits an action on a resource if the permission policy has these
// resources.
func (r *Registry) covers(permitted []string, action, resource string) bool {
	if action == randomAction {
		return resource == r.arns.Resource("*")
	}
	keyId, ok := strings.CutPrefix(resource, r.arns.Key(""))
	if !ok || !slices.Contains(keyUserActions, action) {
		return false
	}
	return slices.ContainsFunc(permitted, func(resource string) bool {
		name, ok := strings.CutPrefix(resource, "key/")
		if prefix, wildcard := strings.CutSuffix(name, "*"); wildcard {
			return ok && strings.HasPrefix(keyId, prefix)
		}
		return ok && keyId == name
	})
}

// admits reports whether one of the network rules admits an address, or there are no rules.
func admits(records *store.Records, rules []string, source netip.Addr) bool {
	return len(rules) == 0 || slices.ContainsFunc(rules, func(name string) bool {
		rule, _ := records.NetworkRules().Get(name)
		return slices.ContainsFunc(rule.SourcePrivateIp, func(admitted string) bool {
			prefix, ok := ParseSource(admitted)
			return ok && prefix.Contains(source)
		})
	})
}

// ParseSource parses the source of a network rule: an address or a prefix. It ignores bits
// beyond the length of a prefix, which the examples in KMS's documentation set. ok is false
// for an IPv4 address in IPv6 form, because such a prefix does not contain the addresses that
// it seems to contain.
func ParseSource(source string) (prefix netip.Prefix, ok bool) {
	prefix, err := netip.ParsePrefix(source)
	if a, addrErr := netip.ParseAddr(source); addrErr == nil && a.Zone() == "" {
		prefix, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	return prefix.Masked(), err == nil && !prefix.Addr().Is4In6()
}
