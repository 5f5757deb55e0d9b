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

// statement returns a policy document with one statement. It is a key policy if principal is
// set, else a RAM policy.
func statement(effect, action, principal, condition string) string {
	if principal != "" {
		principal = fmt.Sprintf(`"Principal":{"RAM":["acs:ram::1000000000000001:%s"]},`, principal)
	}
	if condition != "" {
		condition = `,"Condition":` + condition
	}
	return fmt.Sprintf(`{"Version":"1","Statement":[{"Effect":%q,%s"Action":["kms:%s"],"Resource":["*"]%s}]}`,
		effect, principal, action, condition)
}

// user adds a user whose policies have these documents, and returns the principal.
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

// values are a request's values that are known beforehand.
type values map[string]string

func (v values) Value(key string) (value string, ok bool) {
	value, ok = v[key]
	return value, ok
}

// signWith returns the decision whether a principal may sign with a key.
func (b *bench) signWith(p *identity.Principal, k store.Key, source string) (policy.Decision, error) {
	return b.Decide(b.db.Now(), p, identity.Question{
		Action:   "AsymmetricSign",
		Resource: arns.Key(k.KeyId),
		Values:   values{"acs:SourceIp": source},
	}, &k)
}

// TestDecide checks that users may do what one of their policies or the key's policy allows
// and none denies. A key policy that does not name the owner of the account does not bind the
// owner.
func TestDecide(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	allow, deny := statement("Allow", "AsymmetricSign", "", ""), statement("Deny", "*", "", "")
	root := b.Root(1000)
	if root.Name != "local:1000" {
		t.Errorf("root: got the name %q, want local:1000", root.Name)
	}
	allowed, denied, none := b.user("allowed", allow), b.user("denied", allow, deny), b.user("none")
	onTag := b.user("tag", statement("Allow", "AsymmetricSign", "", `{"StringEquals":{"kms:tag/env":"prod"}}`))
	inNetwork := `{"IpAddress":{"acs:SourceIp":"10.0.0.0/8"}}`
	onSource := b.user("source", statement("Allow", "AsymmetricSign", "", inNetwork))
	tagged := func(value string) store.Key { return store.Key{Tags: map[string]string{"env": value}} }
	keyPolicy := func(effect, action, principal string) store.Key {
		return store.Key{Policy: statement(effect, action, principal, "")}
	}
	const full, ofKey, sign = "AliyunKMSFullAccess", "the key policy", "AsymmetricSign"
	for name, tc := range map[string]struct {
		p      *identity.Principal
		key    store.Key
		source string
		want   bool
		policy string // the name of the policy that decides
	}{
		"root":                       {p: root, want: true, policy: full},
		"root, denied to all users":  {p: root, key: keyPolicy("Deny", "*", "*"), want: true, policy: full},
		"root, invalid key policy":   {p: root, key: store.Key{Policy: "{"}, want: true, policy: full},
		"allowed":                    {p: allowed, want: true, policy: "allowed-1"},
		"allowed and denied":         {p: denied, policy: "denied-2"},
		"no policy":                  {p: none},
		"key policy allows":          {p: none, key: keyPolicy("Allow", sign, "user/none"), want: true, policy: ofKey},
		"key policy allows another":  {p: none, key: keyPolicy("Allow", sign, "user/other")},
		"allowed, key policy denies": {p: allowed, key: keyPolicy("Deny", sign, "user/allowed"), policy: ofKey},
		"right tag":                  {p: onTag, key: tagged("prod"), want: true, policy: "tag-1"},
		"wrong tag":                  {p: onTag, key: tagged("dev")},
		"no tag":                     {p: onTag},
		"right source":               {p: onSource, source: "10.1.2.3", want: true, policy: "source-1"},
		"wrong source":               {p: onSource, source: "192.0.2.1"},
	} {
		tc.key.KeyId = "k1"
		d, err := b.signWith(tc.p, tc.key, tc.source)
		if err != nil || d.Allowed != tc.want || d.Policy != tc.policy || d.Reason() == "" {
			t.Errorf("%s: got %+v, %v, want allowed %v by %q", name, d, err, tc.want, tc.policy)
		}
	}
	d, err := b.signWith(allowed, store.Key{KeyId: "k1", Policy: "{"}, "")
	if d.Allowed || !errors.Is(err, kms.ErrNoPermission) {
		t.Errorf("invalid key policy: got %+v, %v, want error %v", d, err, kms.ErrNoPermission)
	}
	list := identity.Question{Action: "ListKeys", Resource: arns.Resource("key")}
	if d, err := b.Decide(b.db.Now(), allowed, list, nil); d.Allowed || err != nil {
		t.Errorf("an action that no policy allows: got %+v, %v, want it denied", d, err)
	}
}

// TestUser checks that a user with a policy that is missing or cannot be parsed gets no
// principal, because the policy could be one that denies.
func TestUser(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.update(func(tx *store.Tx) error {
		return tx.RamPolicies().Put(store.RamPolicy{PolicyName: "broken", PolicyDocument: "{"})
	})
	for _, name := range []string{"gone", "broken"} {
		u := store.User{UserName: "u", Policies: []string{"AliyunKMSFullAccess", name}}
		if p, err := b.User(b.db.Now(), u); err == nil || p != nil {
			t.Errorf("with the policy %q: got %+v, %v, want an error", name, p, err)
		}
	}
	for name, p := range identity.SystemPolicies {
		if document, err := identity.PolicyDocument(b.db.Now(), name); err != nil || document != p.Document {
			t.Errorf("PolicyDocument(%q): got %q, %v, want %q", name, document, err, p.Document)
		}
		if _, err := b.User(b.db.Now(), store.User{UserName: "u", Policies: []string{name}}); err != nil {
			t.Errorf("user with the system policy %q: %v", name, err)
		}
	}
}

// TestDecideForAccessPoint checks that a client key may do what a permission policy of its
// access point permits for the key and the address, unless the key policy denies it.
func TestDecideForAccessPoint(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.update(func(tx *store.Tx) error {
		put := func(name, permission string, resources []string, rules ...string) error {
			return tx.PermissionPolicies().Put(store.PermissionPolicy{
				Name: name, Permissions: []string{permission}, Resources: resources, NetworkRules: rules,
			})
		}
		return errors.Join(
			tx.NetworkRules().Put(store.NetworkRule{
				Name: "office", SourcePrivateIp: []string{"10.0.0.9/8", "2001:db8::1"},
			}),
			put("all", identity.KeyUser, []string{"key/*"}),
			put("one", identity.KeyUser, []string{"secret/*", "key/k1"}),
			put("prefix", identity.KeyUser, []string{"key/k1*"}),
			put("secrets", identity.SecretUser, []string{"key/*"}),
			put("office", identity.KeyUser, []string{"key/*"}, "missing", "office"),
			put("nowhere", identity.KeyUser, []string{"key/*"}, "missing"))
	})
	ask := func(policies []string, q identity.Question, key *store.Key) (policy.Decision, error) {
		t.Helper()
		b.update(func(tx *store.Tx) error {
			return tx.AccessPoints().Put(store.ApplicationAccessPoint{Name: "app", Policies: policies})
		})
		p, err := b.AccessPoint(b.db.Now(), "app")
		if err != nil {
			t.Fatal(err)
		}
		return b.Decide(b.db.Now(), p, q, key)
	}
	all, office := []string{"all"}, []string{"office"}
	denyAll, denyNamesake := statement("Deny", "*", "*", ""), statement("Deny", "*", "user/app", "")
	for name, tc := range map[string]struct {
		policies                          []string
		action, keyId, keyPolicy, address string
		want                              bool
		policy                            string
	}{
		"all keys":                     {policies: all, want: true, policy: "all"},
		"no permission policy":         {},
		"missing permission policy":    {policies: []string{"missing"}},
		"this key":                     {policies: []string{"one"}, want: true, policy: "one"},
		"longer KeyId":                 {policies: []string{"one"}, keyId: "k11"},
		"longer KeyId, prefix":         {policies: []string{"prefix"}, keyId: "k11", want: true, policy: "prefix"},
		"another KeyId, prefix":        {policies: []string{"prefix"}, keyId: "k2"},
		"secrets":                      {policies: []string{"secrets"}},
		"second policy permits":        {policies: []string{"one", "all"}, keyId: "k2", want: true, policy: "all"},
		"AsymmetricVerify":             {policies: all, action: "AsymmetricVerify", want: true, policy: "all"},
		"GetPublicKey":                 {policies: all, action: "GetPublicKey", want: true, policy: "all"},
		"ScheduleKeyDeletion":          {policies: all, action: "ScheduleKeyDeletion"},
		"from the office":              {policies: office, want: true, policy: "office"},
		"from the IPv6 address":        {policies: office, address: "2001:db8::1", want: true, policy: "office"},
		"from a mapped address":        {policies: office, address: "::ffff:10.0.0.1", want: true, policy: "office"},
		"from elsewhere":               {policies: office, address: "192.0.2.1"},
		"from no address":              {policies: office, address: "none"},
		"missing network rule":         {policies: []string{"nowhere"}},
		"key policy denies":            {policies: all, keyPolicy: denyAll, policy: "the key policy"},
		"only key policy allows":       {keyPolicy: statement("Allow", "*", "*", "")},
		"key policy denies a namesake": {policies: all, keyPolicy: denyNamesake, want: true, policy: "all"},
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
		q := identity.Question{
			Action:   tc.action,
			Resource: arns.Key(tc.keyId),
			Values:   values{"acs:SourceIp": tc.address},
		}
		d, err := ask(tc.policies, q, &store.Key{KeyId: tc.keyId, Policy: tc.keyPolicy})
		if err != nil || d.Allowed != tc.want || d.Policy != tc.policy || d.Reason() == "" {
			t.Errorf("%s: got %+v, %v, want allowed %v by %q", name, d, err, tc.want, tc.policy)
		}
	}
	random := identity.Question{Action: "GenerateRandom", Resource: arns.Resource("*")}
	if d, err := ask([]string{"one"}, random, nil); err != nil || !d.Allowed {
		t.Errorf("random bytes with a key permission: got %+v, %v, want it allowed", d, err)
	}
	if d, err := ask([]string{"secrets"}, random, nil); err != nil || d.Allowed {
		t.Errorf("random bytes with a secret permission: got %+v, %v, want it denied", d, err)
	}
	sign := identity.Question{Action: "AsymmetricSign", Resource: arns.Key("k1")}
	if d, err := ask([]string{"all"}, sign, &store.Key{KeyId: "k1", Policy: "{"}); d.Allowed || !errors.Is(err, kms.ErrNoPermission) {
		t.Errorf("invalid key policy: got %+v, %v, want error %v", d, err, kms.ErrNoPermission)
	}
	if p, err := b.AccessPoint(b.db.Now(), "missing"); p != nil || !errors.Is(err, kms.ErrAccessKeyNotFound) {
		t.Errorf("a missing access point: got %+v, %v, want error %v", p, err, kms.ErrAccessKeyNotFound)
	}
}

// TestPermissionResource checks that resources are keys and secrets, with a wildcard only at
// the end.
func TestPermissionResource(t *testing.T) {
	t.Parallel()
	for resource, want := range map[string]bool{
		"key/*": true, "key/k-1": true, "key/k*": true, "secret/a/b": true, "secret/*": true,
		"": false, "*": false, "key/": false, "key/*a": false, "key/a**": false, "alias/a": false, "key/a b": false,
		"key/a\n": false, "secret/": false,
	} {
		if got := identity.IsPermissionResource(resource); got != want {
			t.Errorf("IsPermissionResource(%q): got %v, want %v", resource, got, want)
		}
	}
}

// TestParseSource checks that addresses and prefixes are parsed, with any bits beyond the
// prefix's length, and that IPv4 addresses in IPv6 form are refused.
func TestParseSource(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"10.0.0.1": "10.0.0.1/32", "10.1.2.3/8": "10.0.0.0/8", "0.0.0.0/0": "0.0.0.0/0",
		"2001:db8::1": "2001:db8::1/128", "2001:db8::1/64": "2001:db8::/64",
		"": "", "10.0.0": "", "10.0.0.0/33": "", "example.com": "",
		"::ffff:10.0.0.1": "", "::ffff:10.0.0.0/104": "", "fe80::1%eth0": "",
	} {
		if got, ok := identity.ParseSource(source); ok != (want != "") || ok && got.String() != want {
			t.Errorf("ParseSource(%q): got %v, %v, want %q", source, got, ok, want)
		}
	}
}
