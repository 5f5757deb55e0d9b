package gateway_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

const account = "acs:kms:cn-hangzhou:1000000000000001:"

func document(statements ...string) string {
	return `{"Version":"1","Statement":[` + strings.Join(statements, ",") + `]}`
}

func allow(action, resource string) string {
	return `{"Effect":"Allow","Action":"` + action + `","Resource":"` + resource + `"}`
}

func deny(action, resource string) string {
	return `{"Effect":"Deny","Action":"` + action + `","Resource":"` + resource + `"}`
}

// forKey returns a statement of a key policy.
func forKey(effect, principal, action string) string {
	return `{"Effect":"` + effect + `","Principal":{"RAM":["acs:ram::1000000000000001:` + principal + `"]},` +
		`"Action":["` + action + `"],"Resource":["*"]}`
}

// refused calls an operation through the local door, checks that it fails with status and code, and
// returns the error.
func (b *bench) refused(status int, code, action string, pairs ...string) *kms.Error {
	b.t.Helper()
	request := kms.AdminRequest{Action: action, Parameters: params(pairs...), AsAdministrator: true}
	err, ok := b.server.Do(b.t.Context(), request, nil).(*kms.Error)
	if !ok || err.Status != status || err.Code != code {
		b.t.Fatalf("%s %q: got error %v, want %d %s", action, pairs, err, status, code)
	}
	return err
}

// TestLeastPrivilege checks that a user who may sign with one key can do so by every name of the
// key, and can do nothing else.
func TestLeastPrivilege(t *testing.T) {
	b := newBench(t)
	c := b.newUser("signer", document(allow("kms:AsymmetricSign", account+"key/"+b.key.KeyId)))
	for _, name := range []string{b.key.KeyId, "alias/test", account + "key/" + b.key.KeyId, account + "alias/test"} {
		a := b.want(b.do(c, "AsymmetricSign", b.signParams("KeyId", name)...), 200, "")
		if e, _ := b.auditLine(a.RequestId); e.Principal != "signer" || e.KeyId != b.key.KeyId || e.Action != "AsymmetricSign" {
			t.Errorf("signed with key %s: got audit line %+v, want AsymmetricSign by signer with %s",
				name, e, b.key.KeyId)
		}
	}
	other := b.newKey()
	b.want(b.do(c, "AsymmetricSign", b.signParams("KeyId", other, "KeyVersionId", b.versions(other)[0])...),
		403, "Forbidden.NoPermission")
	b.want(b.do(c, "AsymmetricSign", b.signParams("KeyId", strings.ToUpper(b.key.KeyId))...),
		403, "Forbidden.NoPermission")
	for _, action := range operationsOf(kms.RPC) {
		p := b.scenario(action)
		if _, onKey := stateTable[action]; onKey { // use the key that the user may sign with
			p = b.retarget(p, b.targetOf(action, p), b.key.KeyId)
		}
		switch a := b.do(c, action, p...); action {
		case "AsymmetricSign":
			b.want(a, 400, "DryRunOperationError")
		case "DescribeRegions":
			b.want(a, 200, "")
		default:
			if a.Status != 403 {
				t.Errorf("%s: got %d %s, want 403", action, a.Status, a.Code)
			}
		}
	}
}

// TestUpdateAliasNeedsAll checks that UpdateAlias needs a permission for the alias, for the old key
// and for the new key.
func TestUpdateAliasNeedsAll(t *testing.T) {
	b := newBench(t)
	target := b.newKey()
	resources := []string{"alias/test", "key/" + b.key.KeyId, "key/" + target}
	for subset := range 1 << len(resources) {
		statements := []string{allow("kms:UpdateAlias", "acs:kms:*:*:none")}
		for i, resource := range resources {
			if subset&(1<<i) != 0 {
				statements = append(statements, allow("kms:UpdateAlias", account+resource))
			}
		}
		c := b.newUser(fmt.Sprintf("user%d", subset), document(statements...))
		a := b.do(c, "UpdateAlias", "AliasName", "alias/test", "KeyId", target, "DryRun", "true")
		if allowed := a.Code == "DryRunOperationError"; allowed != (subset == 7) || !allowed && a.Code != "AccessDeniedError" {
			t.Errorf("permissions %03b: got %s, want DryRunOperationError only with all three", subset, a.Code)
		}
	}
}

// TestExistenceHidden checks that a caller without permissions for a key gets the same answer
// whether the key or the alias exists or not, for every operation.
func TestExistenceHidden(t *testing.T) {
	b := newBench(t)
	c := b.newUser("nosy", document(allow("kms:*", account+"key/another"), allow("kms:*", account+"alias/*")))
	for _, action := range slices.Sorted(maps.Keys(stateTable)) {
		for _, dryRun := range []string{"true", "false"} {
			existing := append(b.scenario(action), "DryRun", dryRun)
			missing := b.retarget(existing, b.targetOf(action, existing), b.key.KeyId) // a copy
			for i := range missing {
				missing[i] = strings.ReplaceAll(missing[i], b.key.KeyId, uuid.NewString())
			}
			request := params(missing...)
			request["DryRun"] = dryRun
			var pairs []string
			for name, value := range request {
				pairs = append(pairs, name, value)
			}
			present, absent := b.do(c, action, existing...), b.do(c, action, pairs...)
			if present.Status != 403 || present.Status != absent.Status || present.Code != absent.Code || present.Message != absent.Message {
				t.Errorf("%s, DryRun %s: got %d %s %q for a key that exists, %d %s %q for one that does not",
					action, dryRun, present.Status, present.Code, present.Message, absent.Status, absent.Code, absent.Message)
			}
		}
	}
}

// TestChangesTakeEffectAtOnce changes permissions between two requests. The second request must see
// the change.
func TestChangesTakeEffectAtOnce(t *testing.T) {
	b := newBench(t)
	c := b.newUser("dev", document(allow("kms:none", "*")))
	const forbidden = "Forbidden.NoPermission"
	sign := func(status int, code string) {
		t.Helper()
		b.want(b.do(c, "AsymmetricSign", b.signParams()...), status, code)
	}
	keyPolicy := func(statements ...string) {
		b.local("SetKeyPolicy", nil, "KeyId", b.key.KeyId, "Policy", document(statements...))
	}
	attached := []string{"UserName", "dev", "PolicyName", "AliyunKMSCryptoUserAccess"}

	sign(403, forbidden)
	b.local("AttachPolicyToUser", nil, attached...)
	sign(200, "")
	b.local("DetachPolicyFromUser", nil, attached...)
	sign(403, forbidden)
	b.local("UpdateRamPolicy", nil, "PolicyName", "policy-of-dev", "PolicyDocument", document(allow("kms:AsymmetricSign", "*")))
	sign(200, "")
	b.local("UpdateRamPolicy", nil, "PolicyName", "policy-of-dev", "PolicyDocument", document(allow("kms:AsymmetricSign", "*"), deny("kms:*", "*key/"+b.key.KeyId)))
	sign(403, forbidden)
	keyPolicy(forKey("Allow", "user/dev", "kms:AsymmetricSign"))
	sign(403, forbidden) // a Deny overrides an Allow
	b.local("UpdateRamPolicy", nil, "PolicyName", "policy-of-dev", "PolicyDocument", document(allow("kms:none", "*")))
	sign(200, "")
	keyPolicy(forKey("Allow", "user/somebody", "kms:AsymmetricSign"))
	sign(403, forbidden)
	keyPolicy(forKey("Allow", "*", "kms:AsymmetricSign"))
	sign(200, "")
	b.local("TagResource", nil, "KeyId", b.key.KeyId, "Tags", `[{"TagKey":"closed","TagValue":"yes"}]`)
	b.local("UpdateRamPolicy", nil, "PolicyName", "policy-of-dev", "PolicyDocument",
		document(`{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringEquals":{"kms:tag/closed":"yes"}}}`))
	sign(403, forbidden)
	b.local("UntagResource", nil, "KeyId", b.key.KeyId, "TagKeys", `["closed"]`)
	sign(200, "")

	b.local("UpdateAccessKey", nil, "AccessKeyId", c.AccessKeyId, "Status", "Inactive")
	sign(400, "InvalidAccessKeyId.Inactive")
	b.local("UpdateAccessKey", nil, "AccessKeyId", c.AccessKeyId, "Status", "Active")
	sign(200, "")
	var second credential
	b.local("CreateAccessKey", &second, "UserName", "dev")
	b.local("DeleteAccessKey", nil, "AccessKeyId", c.AccessKeyId)
	sign(404, "InvalidAccessKeyId.NotFound")
	c = second
	sign(200, "")
	b.local("DeleteUser", nil, "UserName", "dev", "Force", "true")
	sign(404, "InvalidAccessKeyId.NotFound")
	b.local("CreateUser", nil, "UserName", "dev") // has the same name, but not the access key
	sign(404, "InvalidAccessKeyId.NotFound")
}

// TestPolicyRefused checks that a document that cannot be parsed is refused with the position and
// the reason, and that no part of it is applied.
func TestPolicyRefused(t *testing.T) {
	b := newBench(t)
	good := document(allow("kms:AsymmetricSign", "*"))
	c := b.newUser("dev", good)
	goodForKey := document(forKey("Allow", "user/dev", "kms:DescribeKey"))
	b.local("SetKeyPolicy", nil, "KeyId", b.key.KeyId, "Policy", goodForKey)
	half := allow("kms:*", "*") // this first part would allow everything
	for reason, doc := range map[string]string{
		"not JSON":                          `{"Version":"1","Statement":[` + half,
		"occurs twice":                      `{"Version":"1","Statement":[` + half + `],"Statement":[` + half + `]}`,
		`the Version is`:                    `{"Version":"2","Statement":[` + half + `]}`,
		"has no Version":                    `{"Statement":[` + half + `]}`,
		"statement 2":                       document(half, `{"Effect":"Maybe","Action":"*","Resource":"*"}`),
		`"effect" must be spelled "Effect"`: document(half, `{"effect":"Deny","Action":"*","Resource":"*"}`),
		"has no Resource":                   document(half, `{"Effect":"Deny","Action":"*"}`),
		"unsupported statement element":     document(half, `{"Effect":"Deny","NotAction":"*","Resource":"*"}`),
		"unsupported condition operator":    document(half, `{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringSomething":{"acs:SourceIp":"x"}}}`),
		"unsupported condition key":         document(half, `{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringEquals":{"acs:Nonsense":"x"}}}`),
		"neither an IP address":             document(half, `{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"IpAddress":{"acs:SourceIp":"10.0.0.0/33"}}}`),
		"list is empty":                     document(half, `{"Effect":"Deny","Action":[],"Resource":"*"}`),
		"not UTF-8":                         document(half, allow("kms:\xff", "*")),
		"has 32769 bytes":                   padded(half, policy.MaxDocument+1),
		"Effect: line 1, column":            `{"Version":"1","Statement":[{"Effect":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}]}`,
	} {
		for action, p := range map[string][]string{
			"CreateRamPolicy": {"PolicyName", "half", "PolicyDocument", doc},
			"UpdateRamPolicy": {"PolicyName", "policy-of-dev", "PolicyDocument", doc},
		} {
			err := b.refused(400, "InvalidParameter", action, p...)
			if !strings.Contains(err.Message, `"PolicyDocument"`) || !strings.Contains(err.Message, reason) ||
				!strings.Contains(err.Message, "line 1, column") && !strings.Contains(reason, "bytes") {
				t.Errorf("%s: got message %q, want the position and %q", action, err.Message, reason)
			}
		}
	}
	for reason, doc := range map[string]string{
		"expected a list": document(`{"Effect":"Allow","Principal":{"RAM":["acs:ram::1000000000000001:*"]},"Action":["kms:*"],"Resource":"*"}`),
		"no Principal":    document(`{"Effect":"Allow","Action":["kms:*"],"Resource":["*"]}`),
		"has no effect":   document(forKey("Allow", "*", "kms:*Sign")),
		"is not acs:ram":  document(forKey("Allow", "*", "kms:*"), forKey("Allow", "user/*", "kms:*")),
		"statement 2":     document(forKey("Allow", "*", "kms:*"), `{}`),
		"has 32769 bytes": padded(forKey("Allow", "*", "kms:*"), policy.MaxDocument+1),
	} {
		a := b.want(b.do(b.root, "SetKeyPolicy", "KeyId", b.key.KeyId, "Policy", doc), 400, "InvalidParameter")
		if !strings.Contains(a.Message, `"Policy"`) || !strings.Contains(a.Message, reason) {
			t.Errorf("SetKeyPolicy: got message %q, want %q", a.Message, reason)
		}
		b.want(b.do(b.root, "CreateKey", "KeySpec", "EC_P256", "Policy", doc), 400, "InvalidParameter")
	}
	b.refused(404, "EntityNotExist.Policy", "GetRamPolicy", "PolicyName", "half")
	var got struct {
		Policy struct{ PolicyDocument string }
	}
	b.local("GetRamPolicy", &got, "PolicyName", "policy-of-dev")
	if got.Policy.PolicyDocument != good {
		t.Errorf("after a refused UpdateRamPolicy: got %s, want %s", got.Policy.PolicyDocument, good)
	}
	if a := b.do(b.root, "GetKeyPolicy", "KeyId", b.key.KeyId); a.Body["Policy"] != goodForKey {
		t.Errorf("after a refused SetKeyPolicy: got %v, want %s", a.Body, goodForKey)
	}
	b.want(b.do(c, "AsymmetricSign", b.signParams()...), 200, "")
	b.want(b.do(c, "DescribeKey", "KeyId", b.key.KeyId), 200, "")
	b.want(b.do(c, "ListKeys"), 403, "Forbidden.NoPermission")

	// The largest document, with patterns that are as hard to match as possible, is accepted and
	// evaluated.
	hard := strings.Repeat("*a", 100) + "b"
	c = b.newUser("hard", padded(allow("kms:AsymmetricSign", hard)+","+allow("kms:AsymmetricSign", "*"), policy.MaxDocument))
	b.want(b.do(c, "AsymmetricSign", b.signParams()...), 200, "")
}

// padded returns a document of size bytes.
func padded(statement string, size int) string {
	d := document(statement)
	return d[:len(d)-1] + strings.Repeat(" ", size-len(d)) + "}"
}

// TestKeyPolicyAndRamPolicy checks that a Deny in either policy wins, that an Allow in either
// suffices, and that a key without a policy has neither.
func TestKeyPolicyAndRamPolicy(t *testing.T) {
	b := newBench(t)
	c := b.newUser("dev", document(allow("kms:none", "*")))
	const action = "kms:AsymmetricSign"
	nothing := allow("kms:none", "*")
	for _, tc := range []struct {
		ram, key string
		allowed  bool
	}{
		{nothing, "", false},
		{allow(action, "*"), "", true},
		{deny(action, "*"), "", false},
		{nothing, forKey("Allow", "user/dev", action), true},
		{nothing, forKey("Allow", "*", action), true},
		{nothing, forKey("Allow", "user/DEV", action), false},
		{nothing, forKey("Allow", "root", action), false}, // the account root is not the user with the name root
		{nothing, forKey("Allow", "role/dev", action), false},
		{nothing, forKey("Allow", "user/dev", "kms:AsymmetricVerify"), false},
		{nothing, strings.Replace(forKey("Allow", "user/dev", action), "1000000000000001", "2000000000000002", 1), false},
		{nothing, forKey("Deny", "user/dev", action), false},
		{allow(action, "*"), forKey("Allow", "user/dev", action), true},
		{allow(action, "*"), forKey("Allow", "user/other", action), true},
		{allow(action, "*"), forKey("Deny", "user/dev", action), false},
		{allow(action, "*"), forKey("Deny", "*", action), false},
		{allow(action, "*"), forKey("Deny", "user/other", action), true},
		{deny(action, "*"), forKey("Allow", "user/dev", action), false},
		{allow(action, "*"), forKey("Allow", "user/dev", action) + "," + forKey("Deny", "user/dev", "kms:*"), false},
	} {
		b.local("UpdateRamPolicy", nil, "PolicyName", "policy-of-dev", "PolicyDocument", document(tc.ram))
		b.setKey(func(k *store.Key) {
			if k.Policy = ""; tc.key != "" {
				k.Policy = document(tc.key)
			}
		})
		a := b.do(c, "AsymmetricSign", b.signParams()...)
		if allowed := a.Status == 200; allowed != tc.allowed || !allowed && a.Code != "Forbidden.NoPermission" {
			t.Errorf("RAM policy %s, key policy %s: got %d %s, want allowed %v",
				tc.ram, tc.key, a.Status, a.Code, tc.allowed)
		}
	}
	// The policy applies to this key only.
	b.setKey(func(k *store.Key) { k.Policy = document(forKey("Allow", "user/dev", "kms:*")) })
	b.local("UpdateRamPolicy", nil, "PolicyName", "policy-of-dev", "PolicyDocument", document(nothing))
	b.want(b.do(c, "DescribeKey", "KeyId", b.key.KeyId), 200, "")
	b.want(b.do(c, "DescribeKey", "KeyId", b.newKey()), 403, "Forbidden.NoPermission")
	b.want(b.do(c, "DeleteAlias", "AliasName", "alias/test"), 403, "Forbidden.NoPermission")
	b.want(b.do(c, "ListKeys"), 403, "Forbidden.NoPermission")
}

// TestNobodyIsLockedOut checks that a local administrator can repair a key policy that denies
// everything to everybody, or that cannot be parsed, which denies everything to everybody else.
func TestNobodyIsLockedOut(t *testing.T) {
	b := newBench(t)
	for name, doc := range map[string]string{"denies all": document(forKey("Deny", "*", "kms:*")), "broken": `{"Version":`} {
		b.setKey(func(k *store.Key) { k.Policy = doc })
		b.want(b.do(b.root, "DescribeKey", "KeyId", b.key.KeyId), 403, "Forbidden.NoPermission")
		b.want(b.do(b.root, "SetKeyPolicy", "KeyId", b.key.KeyId, "Policy", keyPolicy), 403, "Forbidden.NoPermission")
		b.local("DescribeKey", nil, "KeyId", b.key.KeyId)
		b.local("SetKeyPolicy", nil, "KeyId", b.key.KeyId, "Policy", keyPolicy)
		if a := b.do(b.root, "DescribeKey", "KeyId", b.key.KeyId); a.Status != 200 {
			t.Errorf("%s: got %d %s after the repair, want 200", name, a.Status, a.Code)
		}
	}
}

// TestCaseGames checks that the case of an action matters in a request but not in a policy, and
// that the case of everything else matters.
func TestCaseGames(t *testing.T) {
	b := newBench(t)
	mine := account + "key/" + b.key.KeyId
	for _, tc := range []struct {
		document string
		allowed  bool
	}{
		{document(allow("KMS:ASYMMETRICSIGN", mine)), true},
		{document(allow("kms:asymmetric*", mine)), true},
		{document(allow("kms:*", "*"), deny("kMs:aSYMMETRICsIGN", "*")), false},
		{document(allow("kms:AsymmetricSign", strings.ToUpper(mine))), false},
		{document(allow("kms:AsymmetricSign", mine+" ")), false},
		{document(allow("AsymmetricSign", mine)), false}, // without "kms:"
		{document(allow("ecs:*", "*")), false},
		{document(allow("kms:AsymmetricSig?", "*key/????????-*")), true},
	} {
		c := b.newUser("u"+uuid.NewString(), tc.document)
		if a := b.do(c, "AsymmetricSign", b.signParams()...); (a.Status == 200) != tc.allowed {
			t.Errorf("%s: got %d %s, want allowed %v", tc.document, a.Status, a.Code, tc.allowed)
		}
	}
	nobody := b.newUser("nobody", document(deny("kms:AsymmetricSign", "*"), allow("kms:*", "*")))
	for _, action := range []string{"asymmetricSign", "ASYMMETRICSIGN", "AsymmetricSign ", " AsymmetricSign", "AsymmetricSign\x00", "kms:AsymmetricSign", "AsymmetricSıgn"} {
		for _, c := range []credential{b.root, nobody} {
			b.want(b.do(c, action, b.signParams()...), 404, "InvalidApi.NotFound")
		}
	}
	for name, value := range map[string]string{"action": "AsymmetricSign", "ACTION": "AsymmetricSign", "keyid": b.key.KeyId} {
		a := b.do(nobody, "DescribeKey", "KeyId", b.key.KeyId, name, value) // an unknown parameter, which is ignored
		b.want(a, 200, "")
	}
	// The case of user names matters, too, because key policies contain them.
	lower, upper := b.newUser("case", document(allow("kms:none", "*"))), b.newUser("CASE", document(allow("kms:none", "*")))
	b.local("SetKeyPolicy", nil, "KeyId", b.key.KeyId, "Policy", document(forKey("Allow", "user/case", "kms:*")))
	b.want(b.do(lower, "AsymmetricSign", b.signParams()...), 200, "")
	b.want(b.do(upper, "AsymmetricSign", b.signParams()...), 403, "Forbidden.NoPermission")
}

// TestSourceIsTheConnections checks that no header changes the source of a request, neither for
// policies nor in the audit log.
func TestSourceIsTheConnections(t *testing.T) {
	b := newBench(t)
	allowNetwork := func(network string) string {
		return document(`{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{"IpAddress":{"acs:SourceIp":"` + network + `"}}}`)
	}
	far, near := b.newUser("far", allowNetwork("10.0.0.0/8")), b.newUser("near", allowNetwork("127.0.0.1"))
	for _, header := range []string{"X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP"} {
		ask := func(c credential) answer {
			r, err := http.NewRequest("GET", b.http.URL+"/?"+b.sign(c, "GET", "ListKeys", nil).Encode(), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set(header, map[bool]string{true: "for=10.0.0.1", false: "10.0.0.1"}[header == "Forwarded"])
			return b.roundTrip(r)
		}
		b.want(ask(far), 403, "Forbidden.NoPermission")
		a := b.want(ask(near), 200, "")
		if e, _ := b.auditLine(a.RequestId); e.Source != "127.0.0.1" {
			t.Errorf("with the header %s: got Source %s in the audit line, want 127.0.0.1", header, e.Source)
		}
	}
}

// TestLastUsedDate checks that LastUsedDate is the time of the last request with a valid signature,
// also after a restart.
func TestLastUsedDate(t *testing.T) {
	b := newBench(t)
	c := b.newUser("dev", "")
	lastUsed := func() string {
		t.Helper()
		var list struct {
			AccessKeys struct {
				AccessKey []struct{ AccessKeyId, Status, CreateDate, LastUsedDate string }
			}
		}
		b.local("ListAccessKeys", &list, "UserName", "dev")
		if n := len(list.AccessKeys.AccessKey); n != 1 || list.AccessKeys.AccessKey[0].AccessKeyId != c.AccessKeyId ||
			list.AccessKeys.AccessKey[0].CreateDate != "2026-11-21T20:56:37Z" || list.AccessKeys.AccessKey[0].Status != "Active" {
			t.Fatalf("ListAccessKeys: got %+v, want the active access key %s", list, c.AccessKeyId)
		}
		return list.AccessKeys.AccessKey[0].LastUsedDate
	}
	check := func(want string) {
		t.Helper()
		if got := lastUsed(); got != want {
			t.Errorf("LastUsedDate: got %q, want %q", got, want)
		}
	}
	check("")
	b.want(b.do(credential{c.AccessKeyId, "wrong"}, "ListKeys"), 400, "SignatureDoesNotMatch")
	check("")
	b.want(b.do(c, "ListKeys"), 200, "")
	check("2026-11-21T20:56:37Z")
	b.server.Flush()
	check("2026-11-21T20:56:37Z")
	b.clock.move(time.Minute)
	b.want(b.do(credential{c.AccessKeyId, "wrong"}, "ListKeys"), 400, "SignatureDoesNotMatch")
	check("2026-11-21T20:56:37Z")
	b.want(b.do(c, "Nonsense"), 404, "InvalidApi.NotFound")
	check("2026-11-21T20:57:37Z")
	b.server.Flush()
	b.stop()
	b.start()
	check("2026-11-21T20:57:37Z")
}

// TestNames checks which names of users and policies are valid, and how long their descriptions can
// be.
func TestNames(t *testing.T) {
	b := newBench(t)
	doc := document(allow("kms:*", "*"))
	for _, name := range []string{"a", "Z9._@-", "..", strings.Repeat("n", 64)} {
		b.local("CreateUser", nil, "UserName", name, "Comments", strings.Repeat("c", 128))
		b.local("CreateRamPolicy", nil, "PolicyName", name, "PolicyDocument", doc, "Description", strings.Repeat("d", 128))
		b.local("AttachPolicyToUser", nil, "UserName", name, "PolicyName", name)
	}
	for _, name := range []string{strings.Repeat("n", 65), "a b", "a/b", "a\n", "\na", "a:b", "local:0", "é", "the key policy", "*", "a\x00", `a"b`} {
		b.refused(400, "InvalidParameter", "CreateUser", "UserName", name)
		b.refused(400, "InvalidParameter", "CreateRamPolicy", "PolicyName", name, "PolicyDocument", doc)
	}
	b.refused(400, "MissingParameter", "CreateUser", "UserName", "")
	b.refused(400, "MissingParameter", "CreateRamPolicy", "PolicyName", "", "PolicyDocument", doc)
	b.refused(400, "MissingParameter", "CreateRamPolicy", "PolicyName", "x", "PolicyDocument", "")
	b.refused(400, "InvalidParameter", "CreateUser", "UserName", "x", "Comments", strings.Repeat("c", 129))
	b.refused(400, "InvalidParameter", "CreateRamPolicy", "PolicyName", "x", "PolicyDocument", doc, "Description", strings.Repeat("d", 129))
	b.refused(409, "EntityAlreadyExists.Policy", "CreateRamPolicy", "PolicyName", "a", "PolicyDocument", doc)
	b.refused(404, "EntityNotExist.User", "CreateAccessKey", "UserName", "A") // the user is "a"
}

// TestSystemPolicies checks that the system policies exist under RAM's names, allow what their
// names say, and cannot be changed.
func TestSystemPolicies(t *testing.T) {
	b := newBench(t)
	sign, read, change, list := b.signParams("DryRun", "true"), []string{"KeyId", b.key.KeyId, "DryRun", "true"}, []string{"KeyId", b.key.KeyId, "DryRun", "true"}, []string{"DryRun", "true"}
	for name, may := range map[string]string{
		"AliyunKMSFullAccess":        "AsymmetricSign DescribeKey DisableKey ListKeys DescribeAccountKmsStatus",
		"AliyunKMSReadOnlyAccess":    "DescribeKey ListKeys DescribeAccountKmsStatus",
		"AliyunKMSCryptoUserAccess":  "AsymmetricSign",
		"AliyunKMSCryptoAdminAccess": "AsymmetricSign DescribeKey DisableKey ListKeys",
	} {
		var c credential
		user := "user-of-" + name
		b.local("CreateUser", nil, "UserName", user)
		b.local("CreateAccessKey", &c, "UserName", user)
		b.local("AttachPolicyToUser", nil, "UserName", user, "PolicyName", name)
		for action, p := range map[string][]string{"AsymmetricSign": sign, "DescribeKey": read, "DisableKey": change, "ListKeys": list, "DescribeAccountKmsStatus": list} {
			a := b.do(c, action, p...)
			if allowed := a.Code == "DryRunOperationError"; allowed != slices.Contains(strings.Fields(may), action) || !allowed && a.Code != "AccessDeniedError" {
				t.Errorf("%s: %s got %d %s, want allowed: %s", name, action, a.Status, a.Code, may)
			}
		}
		var before, after struct {
			Policy struct{ PolicyType, PolicyDocument string }
		}
		b.local("GetRamPolicy", &before, "PolicyName", name)
		b.refused(400, "InvalidParameter", "UpdateRamPolicy", "PolicyName", name, "PolicyDocument", document(allow("kms:*", "*")))
		b.refused(409, "EntityAlreadyExists.Policy", "CreateRamPolicy", "PolicyName", name, "PolicyDocument", document(allow("kms:*", "*")))
		b.refused(400, "InvalidParameter", "DeleteRamPolicy", "PolicyName", name)
		b.local("DetachPolicyFromUser", nil, "UserName", user, "PolicyName", name)
		b.refused(400, "InvalidParameter", "DeleteRamPolicy", "PolicyName", name)
		b.local("GetRamPolicy", &after, "PolicyName", name)
		if before != after || before.Policy.PolicyType != "System" || before.Policy.PolicyDocument == "" {
			t.Errorf("%s: got %+v before and %+v after, want the same system policy", name, before, after)
		}
	}
}

// TestDeleteConflict checks that users and policies in use are not deleted without Force.
func TestDeleteConflict(t *testing.T) {
	b := newBench(t)
	c := b.newUser("dev", document(allow("kms:ListKeys", "*")))
	b.refused(409, "DeleteConflict.Policy.User", "DeleteRamPolicy", "PolicyName", "policy-of-dev")
	b.refused(409, "DeleteConflict.User", "DeleteUser", "UserName", "dev")
	b.refused(409, "DeleteConflict.User", "DeleteUser", "UserName", "dev", "Force", "false")
	b.want(b.do(c, "ListKeys"), 200, "")
	b.local("DeleteUser", nil, "UserName", "dev", "Force", "true")
	b.local("DeleteRamPolicy", nil, "PolicyName", "policy-of-dev")

	b.local("CreateUser", nil, "UserName", "plain")
	b.local("AttachPolicyToUser", nil, "UserName", "plain", "PolicyName", "AliyunKMSReadOnlyAccess")
	b.refused(409, "DeleteConflict.User", "DeleteUser", "UserName", "plain")
	b.local("DetachPolicyFromUser", nil, "UserName", "plain", "PolicyName", "AliyunKMSReadOnlyAccess")
	b.local("DeleteUser", nil, "UserName", "plain")
}

type simulated struct {
	Allowed    bool
	Reason     string
	PolicyName string
	Statement  int
}

// TestSimulatePolicy checks that SimulatePolicy names the statement that decides, and that the
// request itself and its audit line agree.
func TestSimulatePolicy(t *testing.T) {
	b := newBench(t)
	tagged := b.newKey("Tags", `[{"TagKey":"env","TagValue":"prod"}]`)
	shared := b.newKey("Policy", document(forKey("Allow", "user/else", "kms:*"), forKey("Allow", "user/dev", "kms:DescribeKey")))
	closed := b.newKey("Policy", document(forKey("Deny", "*", "kms:Describe*")))
	c := b.newUser("dev", document(
		allow("kms:AsymmetricSign", account+"key/"+b.key.KeyId),
		`{"Effect":"Allow","Action":"kms:Describe*","Resource":"*","Condition":{"StringEquals":{"kms:tag/env":"prod"}}}`,
		`{"Effect":"Deny","Action":"kms:GetPublicKey","Resource":"*","Condition":{"IpAddress":{"acs:SourceIp":"127.0.0.0/8"}}}`,
		allow("kms:*PublicKey", "*"),
		deny("kms:DisableKey", "*"),
	))
	b.local("AttachPolicyToUser", nil, "UserName", "dev", "PolicyName", "AliyunKMSReadOnlyAccess")
	b.local("DetachPolicyFromUser", nil, "UserName", "dev", "PolicyName", "policy-of-dev")
	b.local("AttachPolicyToUser", nil, "UserName", "dev", "PolicyName", "policy-of-dev") // attached again, it comes second
	for _, tc := range []struct {
		action, key string
		want        simulated
	}{
		{"AsymmetricSign", b.key.KeyId, simulated{true, "", "policy-of-dev", 1}},
		{"AsymmetricSign", "alias/test", simulated{true, "", "policy-of-dev", 1}},
		{"AsymmetricSign", account + "alias/test", simulated{true, "", "policy-of-dev", 1}},
		{"AsymmetricSign", tagged, simulated{false, "no statement allows it", "", 0}},
		{"AsymmetricVerify", b.key.KeyId, simulated{false, "no statement allows it", "", 0}},
		{"DescribeKey", tagged, simulated{true, "", "AliyunKMSReadOnlyAccess", 1}}, // two allow it; the first is named
		{"DescribeKey", closed, simulated{false, "", "the key policy", 1}},
		{"DescribeKey", shared, simulated{true, "", "AliyunKMSReadOnlyAccess", 1}},
		{"GetPublicKey", b.key.KeyId, simulated{false, "", "policy-of-dev", 3}},
		{"DisableKey", shared, simulated{false, "", "policy-of-dev", 5}},
	} {
		check := func(more ...string) {
			t.Helper()
			var got simulated
			b.local("SimulatePolicy", &got, append([]string{"UserName", "dev", "ActionName", "kms:" + tc.action, "KeyId", tc.key, "SourceIp", "127.0.0.1"}, more...)...)
			reason := got.Reason
			if got.Reason = tc.want.Reason; got != tc.want || !strings.Contains(reason, tc.want.Reason) ||
				tc.want.PolicyName != "" && !strings.Contains(reason, fmt.Sprintf("statement %d of policy %q", tc.want.Statement, tc.want.PolicyName)) {
				t.Errorf("%s on %s: got %+v (%q), want %+v", tc.action, tc.key, got, reason, tc.want)
			}
		}
		check()
		p := params("KeyId", tc.key, "KeyVersionId", b.key.KeyVersionId, "Algorithm", "ECDSA_SHA_256", "Digest", digest, "Value", "AAAA", "DryRun", "true")
		var pairs []string
		for name, value := range p {
			pairs = append(pairs, name, value)
		}
		a := b.do(c, tc.action, pairs...)
		if (a.Status != 403) != tc.want.Allowed {
			t.Errorf("%s on %s: got %d %s for the request, want allowed %v, as the simulation says",
				tc.action, tc.key, a.Status, a.Code, tc.want.Allowed)
		}
		if a.Status == 403 { // its audit line must have the same reason
			a = b.do(c, tc.action, slices.DeleteFunc(pairs, func(s string) bool { return s == "DryRun" || s == "true" })...)
			if e, _ := b.auditLine(a.RequestId); !strings.Contains(e.Reason, tc.want.Reason) || tc.want.PolicyName != "" && !strings.Contains(e.Reason, fmt.Sprintf("%q", tc.want.PolicyName)) {
				t.Errorf("%s on %s: got reason %q in the audit line, want that of %+v",
					tc.action, tc.key, e.Reason, tc.want)
			}
		}
	}
	// If no policy of the user matches, the key policy decides.
	b.local("DetachPolicyFromUser", nil, "UserName", "dev", "PolicyName", "AliyunKMSReadOnlyAccess")
	var got simulated
	b.local("SimulatePolicy", &got, "UserName", "dev", "ActionName", "DescribeKey", "KeyId", shared)
	if want := (simulated{true, got.Reason, "the key policy", 2}); got != want {
		t.Errorf("DescribeKey on %s: got %+v, want %+v", shared, got, want)
	}
	b.want(b.do(c, "DescribeKey", "KeyId", shared), 200, "")
	// The Deny does not apply to other addresses.
	b.local("SimulatePolicy", &got, "UserName", "dev", "ActionName", "GetPublicKey", "KeyId", b.key.KeyId, "SourceIp", "10.0.0.1")
	if want := (simulated{true, got.Reason, "policy-of-dev", 4}); got != want {
		t.Errorf("GetPublicKey from 10.0.0.1: got %+v, want %+v", got, want)
	}
	for _, action := range []string{"CreateUser", "SimulatePolicy", "Encrypt", "asymmetricsign", "kms:", "*"} {
		b.refused(400, "InvalidParameter", "SimulatePolicy", "UserName", "dev", "ActionName", action)
	}
	b.refused(404, "EntityNotExist.User", "SimulatePolicy", "UserName", "none", "ActionName", "ListKeys")
}

// TestSecretsAreShownOnce checks that an AccessKeySecret is in the answer to CreateAccessKey, and
// in no other answer, no audit line and not in the database.
func TestSecretsAreShownOnce(t *testing.T) {
	b := newBench(t)
	c := b.newUser("dev", "")
	b.want(b.do(c, "ListKeys"), 200, "")
	for _, action := range []string{"ListUsers", "ListAccessKeys", "ListRamPolicies", "ListQuotas"} {
		var got any
		b.local(action, &got)
		if strings.Contains(fmt.Sprint(got), c.AccessKeySecret) {
			t.Errorf("%s: the answer contains an AccessKeySecret", action)
		}
	}
	if text := fmt.Sprintf("%+v", b.auditLines()); strings.Contains(text, c.AccessKeySecret) || !strings.Contains(text, c.AccessKeyId) {
		t.Errorf("the audit log contains the secret, or not the access key")
	}
	var lines []audit.Entry
	for _, e := range b.auditLines() {
		if e.Action == "CreateAccessKey" && e.Subject == "dev/"+c.AccessKeyId {
			lines = append(lines, e)
		}
	}
	if len(lines) != 1 || !strings.HasPrefix(lines[0].Principal, "local:") {
		t.Errorf("CreateAccessKey: got audit lines %+v, want one of a local administrator", lines)
	}
	b.stop()
	for _, name := range []string{"db", "audit.log"} {
		content, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil || bytes.Contains(content, []byte(c.AccessKeySecret)) || !bytes.Contains(content, []byte(c.AccessKeyId)) {
			t.Errorf("%s contains the secret, or not the access key: %v", name, err)
		}
	}
}
