package identity_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// statement is a policy document of one statement. Principal is that of a key policy; ""
// makes it a RAM policy.
func statement(effect, action, principal, condition string) string {
	if principal != "" {
		principal = fmt.Sprintf(`"Principal":{"RAM":["acs:ram::1000000000000001:%s"]},`, principal)
	}
	if condition != "" {
		condition = `,"Condition":` + condition
	}
	return fmt.Sprintf(`{"Version":"1","Statement":[{"Effect":%q,%s"Action":["kms:%s"],"Resource":["*"]%s}]}`, effect, principal, action, condition)
}

// user makes a user with policies of these documents and returns the principal.
func (b *bench) user(name string, documents ...string) *identity.Principal {
	b.t.Helper()
	u := store.User{UserName: name}
	b.update(func(tx *store.Tx) error {
		for i, document := range documents {
			p := store.RamPolicy{PolicyName: fmt.Sprintf("%s-%d", name, i+1), PolicyDocument: document}
			if err := tx.RamPolicies().Put(p); err != nil {
				return err
			}
			u.Policies = append(u.Policies, p.PolicyName)
		}
		return tx.Users().Put(u)
	})
	p, err := b.User(b.db.Now(), u)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// signWith asks whether a principal may sign with a key.
func (b *bench) signWith(p *identity.Principal, k store.Key, source string) (policy.Decision, error) {
	return b.Decide(b.db.Now(), p, identity.Question{Action: "AsymmetricSign", Resource: arns.Key(k.KeyId), Key: &k, Values: map[string]string{"acs:SourceIp": source}})
}

// TestDecide lets a user do what a policy of theirs or of the key allows and none denies.
// The account's owner is bound by no key policy that does not name them.
func TestDecide(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	allow, deny := statement("Allow", "AsymmetricSign", "", ""), statement("Deny", "*", "", "")
	root := b.Root(1000)
	if root.Name != "local:1000" {
		t.Errorf("root is %q", root.Name)
	}
	allowed, denied, none := b.user("allowed", allow), b.user("denied", allow, deny), b.user("none")
	onTag := b.user("tag", statement("Allow", "AsymmetricSign", "", `{"StringEquals":{"kms:tag/env":"prod"}}`))
	fromHere := b.user("here", statement("Allow", "AsymmetricSign", "", `{"IpAddress":{"acs:SourceIp":"10.0.0.0/8"}}`))
	for name, tc := range map[string]struct {
		p      *identity.Principal
		key    store.Key
		source string
		want   bool
		by     string // the policy that decides
	}{
		"root":                          {p: root, want: true, by: "AliyunKMSFullAccess"},
		"root, denied to all users":     {p: root, key: store.Key{Policy: statement("Deny", "*", "*", "")}, want: true, by: "AliyunKMSFullAccess"},
		"root, by an unparsable policy": {p: root, key: store.Key{Policy: "{"}, want: true, by: "AliyunKMSFullAccess"},
		"allowed":                       {p: allowed, want: true, by: "allowed-1"},
		"allowed, and denied":           {p: denied, by: "denied-2"},
		"no policy":                     {p: none},
		"no policy, the key's allows":   {p: none, key: store.Key{Policy: statement("Allow", "AsymmetricSign", "user/none", "")}, want: true, by: "the key policy"},
		"the key's allows another":      {p: none, key: store.Key{Policy: statement("Allow", "AsymmetricSign", "user/other", "")}},
		"allowed, the key's denies":     {p: allowed, key: store.Key{Policy: statement("Deny", "AsymmetricSign", "user/allowed", "")}, by: "the key policy"},
		"the key's tag":                 {p: onTag, key: store.Key{Tags: map[string]string{"env": "prod"}}, want: true, by: "tag-1"},
		"another tag":                   {p: onTag, key: store.Key{Tags: map[string]string{"env": "dev"}}},
		"no tag":                        {p: onTag},
		"from here":                     {p: fromHere, source: "10.1.2.3", want: true, by: "here-1"},
		"from elsewhere":                {p: fromHere, source: "192.0.2.1"},
	} {
		tc.key.KeyId = "k1"
		d, err := b.signWith(tc.p, tc.key, tc.source)
		if err != nil || d.Allowed != tc.want || d.Policy != tc.by || d.Reason == "" {
			t.Errorf("%s: %+v, %v, want %v by %q", name, d, err, tc.want, tc.by)
		}
	}
	if d, err := b.signWith(allowed, store.Key{KeyId: "k1", Policy: "{"}, ""); d.Allowed || !errors.Is(err, kms.ErrNoPermission) {
		t.Errorf("by a key policy that cannot be parsed: %+v, %v", d, err)
	}
	if d, err := b.Decide(b.db.Now(), allowed, identity.Question{Action: "ListKeys", Resource: arns.Resource("key")}); d.Allowed || err != nil {
		t.Errorf("what no policy allows: %+v, %v", d, err)
	}
}

// TestUser: a user with a policy that is gone, or that cannot be parsed, is nobody: it may
// have been one that denies.
func TestUser(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.update(func(tx *store.Tx) error {
		return tx.RamPolicies().Put(store.RamPolicy{PolicyName: "broken", PolicyDocument: "{"})
	})
	for _, name := range []string{"gone", "broken"} {
		if p, err := b.User(b.db.Now(), store.User{UserName: "u", Policies: []string{"AliyunKMSFullAccess", name}}); err == nil || p != nil {
			t.Errorf("with a policy that is %s: %+v", name, p)
		}
	}
	for name, p := range identity.SystemPolicies {
		if document, err := identity.PolicyDocument(b.db.Now(), name); err != nil || document != p.Document {
			t.Errorf("%s: %q, %v", name, document, err)
		}
		if _, err := b.User(b.db.Now(), store.User{UserName: "u", Policies: []string{name}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDecideForAccessPoint: a client key may do what a permission policy of its access
// point permits with the key from its address, unless the key's own policy denies it.
func TestDecideForAccessPoint(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.update(func(tx *store.Tx) error {
		return errors.Join(
			tx.NetworkRules().Put(store.NetworkRule{Name: "office", SourcePrivateIp: []string{"10.0.0.9/8", "2001:db8::1"}}),
			tx.PermissionPolicies().Put(store.PermissionPolicy{Name: "all", Permissions: []string{identity.KeyUser}, Resources: []string{"key/*"}}),
			tx.PermissionPolicies().Put(store.PermissionPolicy{Name: "one", Permissions: []string{identity.KeyUser}, Resources: []string{"secret/*", "key/k1"}}),
			tx.PermissionPolicies().Put(store.PermissionPolicy{Name: "prefix", Permissions: []string{identity.KeyUser}, Resources: []string{"key/k1*"}}),
			tx.PermissionPolicies().Put(store.PermissionPolicy{Name: "secrets", Permissions: []string{identity.SecretUser}, Resources: []string{"key/*"}}),
			tx.PermissionPolicies().Put(store.PermissionPolicy{Name: "office", Permissions: []string{identity.KeyUser}, Resources: []string{"key/*"}, NetworkRules: []string{"gone", "office"}}),
			tx.PermissionPolicies().Put(store.PermissionPolicy{Name: "nowhere", Permissions: []string{identity.KeyUser}, Resources: []string{"key/*"}, NetworkRules: []string{"gone"}}))
	})
	ask := func(policies []string, q identity.Question) (policy.Decision, error) {
		t.Helper()
		b.update(func(tx *store.Tx) error {
			return tx.AccessPoints().Put(store.ApplicationAccessPoint{Name: "app", Policies: policies})
		})
		p, err := b.AccessPoint(b.db.Now(), "app")
		if err != nil {
			t.Fatal(err)
		}
		return b.Decide(b.db.Now(), p, q)
	}
	for name, tc := range map[string]struct {
		policies                          []string
		action, keyId, keyPolicy, address string
		want                              bool
		by                                string
	}{
		"all":                         {policies: []string{"all"}, want: true, by: "all"},
		"none":                        {},
		"one that is gone":            {policies: []string{"gone"}},
		"the key":                     {policies: []string{"one"}, want: true, by: "one"},
		"a longer KeyId":              {policies: []string{"one"}, keyId: "k11"},
		"a longer KeyId, by a prefix": {policies: []string{"prefix"}, keyId: "k11", want: true, by: "prefix"},
		"another KeyId, by a prefix":  {policies: []string{"prefix"}, keyId: "k2"},
		"secrets":                     {policies: []string{"secrets"}},
		"the second permits it":       {policies: []string{"one", "all"}, keyId: "k2", want: true, by: "all"},
		"verifying":                   {policies: []string{"all"}, action: "AsymmetricVerify", want: true, by: "all"},
		"the public key":              {policies: []string{"all"}, action: "GetPublicKey", want: true, by: "all"},
		"deleting":                    {policies: []string{"all"}, action: "ScheduleKeyDeletion"},
		"from the office":             {policies: []string{"office"}, want: true, by: "office"},
		"from its IPv6 address":       {policies: []string{"office"}, address: "2001:db8::1", want: true, by: "office"},
		"from its mapped address":     {policies: []string{"office"}, address: "::ffff:10.0.0.1", want: true, by: "office"},
		"from elsewhere":              {policies: []string{"office"}, address: "192.0.2.1"},
		"from no address":             {policies: []string{"office"}, address: "none"},
		"a rule that is gone":         {policies: []string{"nowhere"}},
		"denied by the key's policy":  {policies: []string{"all"}, keyPolicy: statement("Deny", "*", "*", ""), by: "the key policy"},
		"allowed by the key's only":   {keyPolicy: statement("Allow", "*", "*", "")},
		"denied to a user so called":  {policies: []string{"all"}, keyPolicy: statement("Deny", "*", "user/app", ""), want: true, by: "all"},
	} {
		if tc.action == "" {
			tc.action = "AsymmetricSign"
		}
		if tc.keyId == "" {
			tc.keyId = "k1"
		}
		if tc.address == "" {
			tc.address = "10.0.0.1"
		}
		q := identity.Question{Action: tc.action, Resource: arns.Key(tc.keyId), Key: &store.Key{KeyId: tc.keyId, Policy: tc.keyPolicy}, Values: map[string]string{"acs:SourceIp": tc.address}}
		if d, err := ask(tc.policies, q); err != nil || d.Allowed != tc.want || d.Policy != tc.by || d.Reason == "" {
			t.Errorf("%s: %+v, %v, want %v by %q", name, d, err, tc.want, tc.by)
		}
	}
	random := identity.Question{Action: "GenerateRandom", Resource: arns.Resource("*")}
	if d, err := ask([]string{"one"}, random); err != nil || !d.Allowed {
		t.Errorf("random bytes: %+v, %v", d, err)
	}
	if d, err := ask([]string{"secrets"}, random); err != nil || d.Allowed {
		t.Errorf("random bytes with secrets only: %+v, %v", d, err)
	}
	unparsable := identity.Question{Action: "AsymmetricSign", Resource: arns.Key("k1"), Key: &store.Key{KeyId: "k1", Policy: "{"}}
	if d, err := ask([]string{"all"}, unparsable); d.Allowed || !errors.Is(err, kms.ErrNoPermission) {
		t.Errorf("by a key policy that cannot be parsed: %+v, %v", d, err)
	}
	if p, err := b.AccessPoint(b.db.Now(), "gone"); p != nil || !errors.Is(err, kms.ErrAccessKeyNotFound) {
		t.Errorf("an access point that is gone: %+v, %v", p, err)
	}
}

// TestPermissionResource: only a * at the end is a wildcard, and only keys and secrets
// are there.
func TestPermissionResource(t *testing.T) {
	t.Parallel()
	for resource, want := range map[string]bool{
		"key/*": true, "key/k-1": true, "key/k*": true, "secret/a/b": true, "secret/*": true,
		"": false, "*": false, "key/": false, "key/*a": false, "key/a**": false, "alias/a": false, "key/a b": false, "key/a\n": false, "secret/": false,
	} {
		if got := identity.IsPermissionResource(resource); got != want {
			t.Errorf("%q: %v", resource, got)
		}
	}
}

// TestParseSource reads addresses and prefixes, whatever bits are set behind a prefix's
// length, and no IPv4 address in IPv6 form.
func TestParseSource(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"10.0.0.1": "10.0.0.1/32", "10.1.2.3/8": "10.0.0.0/8", "2001:db8::1": "2001:db8::1/128", "2001:db8::1/64": "2001:db8::/64", "0.0.0.0/0": "0.0.0.0/0",
		"": "", "10.0.0": "", "10.0.0.0/33": "", "::ffff:10.0.0.1": "", "::ffff:10.0.0.0/104": "", "fe80::1%eth0": "", "example.com": "",
	} {
		if got, ok := identity.ParseSource(source); ok != (want != "") || ok && got.String() != want {
			t.Errorf("%q: %v, %v, want %q", source, got, ok, want)
		}
	}
}
