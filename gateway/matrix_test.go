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

// A fact is one statement, in the test's own terms. Documents are written from
// facts, and judge decides by them; neither knows anything of package policy.
type fact struct {
	deny      bool
	who       string   // "alice", "bob", or "*" for both; in key policies only
	actions   []string // with wildcards, "kms:" left out
	resources []string // with wildcards
	tag       [2]string
	from      string // a network
	fromHere  bool   // whether that is where the test's requests come from
}

// judge is the evaluator: a Deny wins, an Allow is needed.
func judge(facts []fact, who, action, resource string, tags map[string]string) bool {
	allowed := false
	for _, f := range facts {
		applies := (f.who == "" || f.who == "*" || f.who == who) && likeAny(f.actions, action) && likeAny(f.resources, resource) &&
			(f.tag[0] == "" || tags[f.tag[0]] == f.tag[1]) && (f.from == "" || f.fromHere)
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

// like goes the way that package policy does not, for it takes exponential time.
func like(pattern, s string) bool {
	switch {
	case pattern == "" || s == "":
		return strings.Trim(pattern, "*") == "" && s == ""
	case pattern[0] == '*':
		return like(pattern[1:], s) || like(pattern, s[1:])
	}
	return (pattern[0] == '?' || pattern[0] == s[0]) && like(pattern[1:], s[1:])
}

// documentOf writes facts as a policy, a key policy if they say who.
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
		switch f.who {
		case "":
		case "*":
			s["Principal"] = map[string]any{"RAM": []string{"acs:ram::1000000000000001:*"}}
		default:
			s["Principal"] = map[string]any{"RAM": []string{"acs:ram::1000000000000001:user/" + f.who}}
		}
		conditions := make(map[string]any)
		if f.tag[0] != "" {
			conditions["StringEquals"] = map[string]any{"kms:tag/" + f.tag[0]: f.tag[1]}
		}
		if f.from != "" {
			conditions["IpAddress"] = map[string]any{"acs:SourceIp": f.from}
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

// keyFacts are the key policies; key i has number i modulo their count.
var keyFacts = [][]fact{
	nil,
	{{who: "alice", actions: []string{"AsymmetricSign"}}},
	{{who: "bob", actions: []string{"*"}}},
	{{deny: true, who: "alice", actions: []string{"*"}}},
	{{deny: true, who: "*", actions: []string{"AsymmetricSign", "Describe*"}}, {who: "*", actions: []string{"List*", "Describe*"}}},
	{{who: "bob", actions: []string{"Get*", "Set*"}, from: "10.0.0.0/8"}, {who: "alice", actions: []string{"ListKeyVersions"}, tag: [2]string{"team", "a"}}},
	{{deny: true, who: "bob", actions: []string{"Get*"}}, {who: "alice", actions: []string{"*"}, from: "127.0.0.0/8", fromHere: true}},
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

// userFacts are the policies of both users, over the keys' ids.
func userFacts(ids []string) map[string][]fact {
	const account = "acs:kms:cn-hangzhou:1000000000000001:"
	var some, few []string
	for _, id := range ids[:10] {
		some = append(some, account+"key/"+id)
	}
	for _, id := range ids[10:15] {
		some = append(some, "acs:kms:*:*:key/"+id[:8]+"-????-*")
	}
	for _, id := range ids[20:25] {
		few = append(few, "acs:kms:cn-hangzhou:*:key/"+id)
	}
	every := []string{"*"}
	return map[string][]fact{
		"alice": {
			{actions: []string{"Asymmetric*", "GetPublicKe?"}, resources: some},
			{actions: []string{"*"}, resources: []string{"acs:kms:*:*:key/*"}, tag: [2]string{"env", "dev"}},
			{deny: true, actions: []string{"Schedule*", "*Protection"}, resources: every},
			{actions: []string{"*Alias"}, resources: []string{"acs:kms:*:*:alias/*"}},
		},
		"bob": {
			{actions: []string{"Describe*", "List*", "Get*"}, resources: every, from: "127.0.0.1", fromHere: true},
			{actions: []string{"AsymmetricSign"}, resources: every, from: "10.0.0.0/8"},
			{actions: []string{"?pdate*", "Tag*", "CreateAlias"}, resources: every},
			{deny: true, actions: []string{"*"}, resources: few},
			{deny: true, actions: []string{"GetPublicKey", "TagResource*"}, resources: []string{"*:key/*"}, tag: [2]string{"env", "prod"}},
			{deny: true, actions: []string{"List*"}, resources: every, from: "192.168.0.0/16"},
		},
	}
}

// TestMatrix sends every operation that names a key, for each of two users and
// each of forty keys, and compares what is allowed with an evaluator of its own.
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
	var allowed, cells atomic.Int64
	for _, who := range slices.Sorted(maps.Keys(users)) {
		c := b.newUser(who, documentOf(t, users[who]))
		for _, action := range slices.Sorted(maps.Keys(stateTable)) {
			scenario := b.scenario(action)
			from := b.targetOf(action, scenario)
			var row sync.WaitGroup // side by side: each waits for the disk
			for i, keyId := range ids {
				p := b.retarget(scenario, from, keyId)
				want := judgeCell(users[who], who, action, keyId, i, p)
				row.Go(func() {
					a := b.do(c, action, p...)
					got := a.Status != 403
					if known := a.Code == "AccessDeniedError" || a.Code == "DryRunOperationError" || a.Code == "ValidationError"; !known || got != want {
						t.Errorf("%s, %s, key %d: %d %s, want it to be allowed: %v", who, action, i, a.Status, a.Code, want)
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
		t.Errorf("%d of %d cells are allowed, want some and not nearly all of %d: the table tells nothing otherwise", n, cells.Load(), all)
	}
}

// onAll gives a key policy's facts the only resource that it may have.
func onAll(facts []fact) (all []fact) {
	for _, f := range facts {
		f.resources = []string{"*"}
		all = append(all, f)
	}
	return all
}

// retarget gives a scenario's parameters for another key, as a dry run.
func (b *bench) retarget(pairs []string, from, to string) []string {
	p := params(pairs...)
	for name, value := range p {
		p[name] = strings.ReplaceAll(value, from, to)
	}
	if p["KeyVersionId"] != "" {
		p["KeyVersionId"] = b.versions(to)[0]
	}
	p["DryRun"] = "true"
	var changed []string
	for name, value := range p {
		changed = append(changed, name, value)
	}
	return changed
}

// judgeCell decides by the user's facts and the key's; for a change of an alias,
// for the alias and for every key that it is of or becomes of.
func judgeCell(user []fact, who, action, keyId string, i int, pairs []string) bool {
	const account = "acs:kms:cn-hangzhou:1000000000000001:"
	facts := slices.Concat(user, onAll(keyFacts[i%len(keyFacts)]))
	want := judge(facts, who, action, account+"key/"+keyId, tagsOf(i))
	if name := params(pairs...)["AliasName"]; name != "" {
		want = want && judge(user, who, action, account+name, nil)
		if action == "UpdateAlias" { // it is taken from the scenario's own key
			want = want && judge(user, who, action, account+"key/"+strings.TrimPrefix(name, "alias/"), map[string]string{"k": "v"})
		}
	}
	return want
}

// TestMatrixKnowsCells holds the evaluator to cells that were worked out by
// hand, so that both cannot be wrong in the same way.
func TestMatrixKnowsCells(t *testing.T) {
	var ids []string
	for i := range matrixKeys {
		ids = append(ids, fmt.Sprintf("%08d-0000-0000-0000-000000000000", i))
	}
	users := userFacts(ids)
	for _, tc := range []struct {
		who, action string
		key         int
		want        bool
	}{
		{"alice", "AsymmetricSign", 7, true},        // by its ARN
		{"alice", "AsymmetricSign", 13, true},       // by a wildcard
		{"alice", "AsymmetricSign", 17, false},      // no Allow; its key policy allows it from elsewhere or else
		{"alice", "AsymmetricSign", 22, true},       // its key policy
		{"alice", "AsymmetricSign", 3, false},       // its key policy denies
		{"alice", "AsymmetricSign", 4, false},       // it denies both
		{"alice", "DescribeKey", 21, true},          // a tag
		{"alice", "ScheduleKeyDeletion", 21, false}, // denied to her
		{"alice", "ScheduleKeyDeletion", 6, false},  // although its key policy allows it
		{"alice", "ListKeyVersions", 26, true},      // its key policy, by a tag
		{"alice", "ListKeyVersions", 19, false},     // no such tag
		{"bob", "DescribeKey", 7, true},
		{"bob", "DescribeKey", 4, false},
		{"bob", "DescribeKey", 21, false},
		{"bob", "AsymmetricSign", 2, true},
		{"bob", "AsymmetricSign", 7, false},  // another network
		{"bob", "AsymmetricSign", 23, false}, // Deny over the key policy's Allow
		{"bob", "GetPublicKey", 8, false},    // a tag
		{"bob", "GetPublicKey", 7, true},
		{"bob", "GetPublicKey", 13, false}, // its key policy
		{"bob", "SetKeyPolicy", 5, false},  // another network
	} {
		if got := judgeCell(users[tc.who], tc.who, tc.action, ids[tc.key], tc.key, nil); got != tc.want {
			t.Errorf("%s, %s, key %d: %v, by hand %v", tc.who, tc.action, tc.key, got, tc.want)
		}
	}
}
