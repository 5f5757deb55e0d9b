package gateway_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A fact is one statement of a policy, independent of package policy. documentOf writes facts as
// policy documents, and judge decides by them.
type fact struct {
	deny      bool
	user      string   // "alice", "bob", or "*" for both; in key policies only
	actions   []string // with wildcards, without "kms:"
	resources []string // with wildcards
	tag       [2]string
	network   string // a network that requests must come from; empty means any
	local     bool   // whether the test's requests come from that network
}

// judge evaluates facts: a Deny wins; otherwise an Allow is required.
func judge(facts []fact, user, action, resource string, tags map[string]string) bool {
	allowed := false
	for _, f := range facts {
		applies := (f.user == "" || f.user == "*" || f.user == user) &&
			likeAny(f.actions, action) && likeAny(f.resources, resource) &&
			(f.tag[0] == "" || tags[f.tag[0]] == f.tag[1]) && (f.network == "" || f.local)
		if applies && f.deny {
			return false
		}
		allowed = allowed || applies
	}
	return allowed
}

func likeAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return like(pattern, s) })
}

// like matches s against a pattern with wildcards. Its algorithm takes exponential time, so package
// policy uses another one.
func like(pattern, s string) bool {
	switch {
	case pattern == "" || s == "":
		return strings.Trim(pattern, "*") == "" && s == ""
	case pattern[0] == '*':
		return like(pattern[1:], s) || like(pattern, s[1:])
	}
	return (pattern[0] == '?' || pattern[0] == s[0]) && like(pattern[1:], s[1:])
}

// documentOf returns facts as a policy document: a key policy if they name users.
func documentOf(t *testing.T, facts []fact) string {
	t.Helper()
	var statements []any
	for _, f := range facts {
		s := map[string]any{"Effect": "Allow", "Resource": f.resources}
		if f.deny {
			s["Effect"] = "Deny"
		}
		var actions []string
		for _, a := range f.actions {
			actions = append(actions, "kms:"+a)
		}
		s["Action"] = actions
		switch f.user {
		case "":
		case "*":
			s["Principal"] = map[string]any{"RAM": []string{"acs:ram::1000000000000001:*"}}
		default:
			s["Principal"] = map[string]any{"RAM": []string{"acs:ram::1000000000000001:user/" + f.user}}
		}
		conditions := make(map[string]any)
		if f.tag[0] != "" {
			conditions["StringEquals"] = map[string]any{"kms:tag/" + f.tag[0]: f.tag[1]}
		}
		if f.network != "" {
			conditions["IpAddress"] = map[string]any{"acs:SourceIp": f.network}
		}
		if len(conditions) > 0 {
			s["Condition"] = conditions
		}
		statements = append(statements, s)
	}
	text, err := json.Marshal(map[string]any{"Version": "1", "Statement": statements})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const matrixKeys = 40

// keyFacts are the key policies. Key i has the policy with the index i modulo their number.
var keyFacts = [][]fact{
	nil,
	{{user: "alice", actions: []string{"AsymmetricSign"}}},
	{{user: "bob", actions: []string{"*"}}},
	{{deny: true, user: "alice", actions: []string{"*"}}},
	{
		{deny: true, user: "*", actions: []string{"AsymmetricSign", "Describe*"}},
		{user: "*", actions: []string{"List*", "Describe*"}},
	},
	{
		{user: "bob", actions: []string{"Get*", "Set*"}, network: "10.0.0.0/8"},
		{user: "alice", actions: []string{"ListKeyVersions"}, tag: [2]string{"team", "a"}},
	},
	{
		{deny: true, user: "bob", actions: []string{"Get*"}},
		{user: "alice", actions: []string{"*"}, network: "127.0.0.0/8", local: true},
	},
}

func tagsOf(i int) map[string]string {
	tags := make(map[string]string)
	if i%3 == 0 {
		tags["env"] = "dev"
	} else if i%4 == 0 {
		tags["env"] = "prod"
	}
	if i%2 == 0 {
		tags["team"] = "a"
	}
	return tags
}

// userFacts returns the policies of both users, by user, for keys with the given ids.
func userFacts(ids []string) map[string][]fact {
	const account = "acs:kms:cn-hangzhou:1000000000000001:"
	var aliceKeys, deniedKeys []string
	for _, id := range ids[:10] {
		aliceKeys = append(aliceKeys, account+"key/"+id)
	}
	for _, id := range ids[10:15] {
		aliceKeys = append(aliceKeys, "acs:kms:*:*:key/"+id[:8]+"-????-*")
	}
	for _, id := range ids[20:25] {
		deniedKeys = append(deniedKeys, "acs:kms:cn-hangzhou:*:key/"+id)
	}
	everything := []string{"*"}
	return map[string][]fact{
		"alice": {
			{actions: []string{"Asymmetric*", "GetPublicKe?"}, resources: aliceKeys},
			{actions: []string{"*"}, resources: []string{"acs:kms:*:*:key/*"}, tag: [2]string{"env", "dev"}},
			{deny: true, actions: []string{"Schedule*", "*Protection"}, resources: everything},
			{actions: []string{"*Alias"}, resources: []string{"acs:kms:*:*:alias/*"}},
		},
		"bob": {
			{actions: []string{"Describe*", "List*", "Get*"}, resources: everything, network: "127.0.0.1", local: true},
			{actions: []string{"AsymmetricSign"}, resources: everything, network: "10.0.0.0/8"},
			{actions: []string{"?pdate*", "Tag*", "CreateAlias"}, resources: everything},
			{deny: true, actions: []string{"*"}, resources: deniedKeys},
			{
				deny: true, actions: []string{"GetPublicKey", "TagResource*"}, resources: []string{"*:key/*"},
				tag: [2]string{"env", "prod"},
			},
			{deny: true, actions: []string{"List*"}, resources: everything, network: "192.168.0.0/16"},
		},
	}
}

// TestMatrix sends every operation that names a key, for each of two users and each of forty keys.
// It compares the permissions with those of judge.
func TestMatrix(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var ids []string
	for i := range matrixKeys {
		tags := []map[string]string{}
		for name, value := range tagsOf(i) {
			tags = append(tags, map[string]string{"TagKey": name, "TagValue": value})
		}
		text, err := json.Marshal(tags)
		if err != nil {
			t.Fatal(err)
		}
		p := []string{"KeySpec", "EC_P256", "Tags", string(text)}
		if facts := onAll(keyFacts[i%len(keyFacts)]); facts != nil {
			p = append(p, "Policy", documentOf(t, facts))
		}
		var made struct{ KeyMetadata struct{ KeyId string } }
		b.local("CreateKey", &made, p...)
		ids = append(ids, made.KeyMetadata.KeyId)
		b.local("CreateAlias", nil, "AliasName", "alias/"+ids[i], "KeyId", ids[i])
	}
	users := userFacts(ids)
	dryRunCodes := []string{"AccessDeniedError", "DryRunOperationError", "ValidationError"}
	var allowed, cells atomic.Int64
	for _, user := range slices.Sorted(maps.Keys(users)) {
		c := b.newUser(user, documentOf(t, users[user]))
		for _, action := range slices.Sorted(maps.Keys(stateTable)) {
			scenario := b.scenario(action)
			target := b.targetOf(action, scenario)
			var row sync.WaitGroup // the requests run in parallel, because each waits for the disk
			for i, keyId := range ids {
				p := b.retarget(scenario, target, keyId)
				want := judgeCell(users[user], user, action, keyId, i, p)
				row.Go(func() {
					a := b.do(c, action, p...)
					got := a.Status != 403
					if !slices.Contains(dryRunCodes, a.Code) {
						t.Errorf("%s by %s on key %d: %d %s, want one of %v",
							action, user, i, a.Status, a.Code, dryRunCodes)
					}
					if got != want {
						t.Errorf("%s by %s on key %d: allowed %v, want %v", action, user, i, got, want)
					}
					cells.Add(1)
					if got {
						allowed.Add(1)
					}
				})
			}
			row.Wait()
		}
	}
	all := int64(2 * matrixKeys * (len(operationsOf(kms.RPC)) - len(namesNoKey)))
	if n := allowed.Load(); cells.Load() != all || n < all/10 || n > all*9/10 {
		// Otherwise the table proves little.
		t.Errorf("%d of %d cells are allowed, want 10%% to 90%% of %d", n, cells.Load(), all)
	}
}

// onAll returns facts with the resource "*", the only one that a key policy may have.
func onAll(facts []fact) (all []fact) {
	for _, f := range facts {
		f.resources = []string{"*"}
		all = append(all, f)
	}
	return all
}

// retarget returns the parameters of a scenario with key instead of its target, as a dry run.
func (b *bench) retarget(pairs []string, target, key string) []string {
	p := params(pairs...)
	for name, value := range p {
		p[name] = strings.ReplaceAll(value, target, key)
	}
	if p["KeyVersionId"] != "" {
		p["KeyVersionId"] = b.versions(key)[0]
	}
	p["DryRun"] = "true"
	var changed []string
	for name, value := range p {
		changed = append(changed, name, value)
	}
	return changed
}

// judgeCell decides by the facts of the user and of key i. A change of an alias must also be
// allowed on the alias, and on the key that the alias pointed to.
func judgeCell(userFacts []fact, user, action, keyId string, i int, pairs []string) bool {
	const account = "acs:kms:cn-hangzhou:1000000000000001:"
	facts := slices.Concat(userFacts, onAll(keyFacts[i%len(keyFacts)]))
	want := judge(facts, user, action, account+"key/"+keyId, tagsOf(i))
	if name := params(pairs...)["AliasName"]; name != "" {
		want = want && judge(userFacts, user, action, account+name, nil)
		if action == "UpdateAlias" { // the alias points to the scenario's own key before
			previous := account + "key/" + strings.TrimPrefix(name, "alias/")
			want = want && judge(userFacts, user, action, previous, map[string]string{"k": "v"})
		}
	}
	return want
}

// TestMatrixKnowsCells compares judgeCell with cells that were worked out by hand, so that the
// gateway and judge cannot be wrong in the same way.
func TestMatrixKnowsCells(t *testing.T) {
	var ids []string
	for i := range matrixKeys {
		ids = append(ids, fmt.Sprintf("%08d-0000-0000-0000-000000000000", i))
	}
	users := userFacts(ids)
	for _, tc := range []struct {
		user, action string
		key          int
		want         bool
	}{
		{"alice", "AsymmetricSign", 7, true},        // allowed by the key's ARN
		{"alice", "AsymmetricSign", 13, true},       // allowed by a wildcard
		{"alice", "AsymmetricSign", 17, false},      // the Allows are for other actions or networks
		{"alice", "AsymmetricSign", 22, true},       // allowed by the key policy
		{"alice", "AsymmetricSign", 3, false},       // denied by the key policy
		{"alice", "AsymmetricSign", 4, false},       // the key policy denies it to both users
		{"alice", "DescribeKey", 21, true},          // allowed by a tag
		{"alice", "ScheduleKeyDeletion", 21, false}, // denied by her policy
		{"alice", "ScheduleKeyDeletion", 6, false},  // denied by her policy, although the key policy allows it
		{"alice", "ListKeyVersions", 26, true},      // allowed by the key policy, by a tag
		{"alice", "ListKeyVersions", 19, false},     // the key does not have the tag
		{"bob", "DescribeKey", 7, true},
		{"bob", "DescribeKey", 4, false},
		{"bob", "DescribeKey", 21, false},
		{"bob", "AsymmetricSign", 2, true},
		{"bob", "AsymmetricSign", 7, false},  // allowed from another network only
		{"bob", "AsymmetricSign", 23, false}, // denied by his policy, although the key policy allows it
		{"bob", "GetPublicKey", 8, false},    // denied by a tag
		{"bob", "GetPublicKey", 7, true},
		{"bob", "GetPublicKey", 13, false}, // denied by the key policy
		{"bob", "SetKeyPolicy", 5, false},  // allowed from another network only
	} {
		if got := judgeCell(users[tc.user], tc.user, tc.action, ids[tc.key], tc.key, nil); got != tc.want {
			t.Errorf("%s by %s on key %d: allowed %v, want %v", tc.action, tc.user, tc.key, got, tc.want)
		}
	}
}
