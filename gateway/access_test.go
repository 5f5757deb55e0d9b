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

// forKey is a statement of a key policy.
func forKey(effect, who, action string) string {
	return `{"Effect":"` + effect + `","Principal":{"RAM":["acs:ram::1000000000000001:` + who + `"]},"Action":["` + action + `"],"Resource":["*"]}`
}

// refused does an operation through the local door and wants an error.
func (b *bench) refused(status int, code, action string, pairs ...string) *kms.Error {
	b.t.Helper()
	err, ok := b.server.Call(b.t.Context(), action, params(pairs...), nil).(*kms.Error)
	if !ok || err.Status != status || err.Code != code {
		b.t.Fatalf("%s %q: %v, want %d %s", action, pairs, err, status, code)
	}
	return err
}

// TestLeastPrivilege: who may sign with one key can do that, by every name of
// the key, and nothing else.
func TestLeastPrivilege(t *testing.T) {
	b := newBench(t)
	c := b.newUser("signer", document(allow("kms:AsymmetricSign", account+"key/"+b.key.KeyId)))
	for _, name := range []string{b.key.KeyId, "alias/test", account + "key/" + b.key.KeyId, account + "alias/test"} {
		a := b.want(b.do(c, "AsymmetricSign", b.signParams("KeyId", name)...), 200, "")
		if e, _ := b.auditLine(a.RequestId); e.Principal != "signer" || e.KeyId != b.key.KeyId || e.Action != "AsymmetricSign" {
			t.Errorf("signed as %s: the audit line says %+v", name, e)
		}
	}
	other := b.newKey()
	b.want(b.do(c, "AsymmetricSign", b.signParams("KeyId", other, "KeyVersionId", b.versions(other)[0])...), 403, "Forbidden.NoPermission")
	b.want(b.do(c, "AsymmetricSign", b.signParams("KeyId", strings.ToUpper(b.key.KeyId))...), 403, "Forbidden.NoPermission")
	for _, action := range operationsOf(kms.RPC) {
		p := b.scenario(action)
		if _, onKey := stateTable[action]; onKey { // the very key that the user may sign with
			p = b.retarget(p, b.targetOf(action, p), b.key.KeyId)
		}
		switch a := b.do(c, action, p...); action {
		case "AsymmetricSign":
			b.want(a, 400, "DryRunOperationError")
		case "DescribeRegions":
			b.want(a, 200, "")
		default:
			if a.Status != 403 {
				t.Errorf("%s: %d %s", action, a.Status, a.Code)
			}
		}
	}
}

// TestUpdateAliasNeedsAll: to move an alias takes the right on the alias, on the
// key it leaves and on the key it comes to.
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
			t.Errorf("with rights %03b: %s", subset, a.Code)
		}
	}
}

// TestExistenceHidden: whatever is asked of a key, who has no rights gets the
// same answer whether there is such a key, or such an alias, or not.
func TestExistenceHidden(t *testing.T) {
	b := newBench(t)
	c := b.newUser("nosy", document(allow("kms:*", account+"key/another"), allow("kms:*", account+"alias/*")))
	for _, action := range slices.Sorted(maps.Keys(stateTable)) {
		for _, dryRun := range []string{"true", "false"} {
			existing := append(b.scenario(action), "DryRun", dryRun)
			missing := b.retarget(existing, b.targetOf(action, existing), b.key.KeyId) // a copy, then with a key that is none
			for i := range missing {
				missing[i] = strings.ReplaceAll(missing[i], b.key.KeyId, uuid.NewString())
			}
			with := params(missing...)
			with["DryRun"] = dryRun
			var pairs []string
			for name, value := range with {
				pairs = append(pairs, name, value)
			}
			there, none := b.do(c, action, existing...), b.do(c, action, pairs...)
			if there.Status != 403 || there.Status != none.Status || there.Code != none.Code || there.Message != none.Message {
				t.Errorf("%s, DryRun %s: %d %s %q for a key that exists, %d %s %q for one that does not",
					action, dryRun, there.Status, there.Code, there.Message, none.Status, none.Code, none.Message)
			}
		}
	}
}

// TestChangesTakeEffectAtOnce changes who may what between one request and the
// next.
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
	sign(403, forbidden) // Deny wins
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
	b.local("CreateUser", nil, "UserName", "dev") // of the same name is not the same
	sign(404, "InvalidAccessKeyId.NotFound")
}

// TestPolicyRefused: a document that does not parse is refused with the place and
// the reason, and nothing of it is applied.
func TestPolicyRefused(t *testing.T) {
	b := newBench(t)
	good := document(allow("kms:AsymmetricSign", "*"))
	c := b.newUser("dev", good)
	goodForKey := document(forKey("Allow", "user/dev", "kms:DescribeKey"))
	b.local("SetKeyPolicy", nil, "KeyId", b.key.KeyId, "Policy", goodForKey)
	half := allow("kms:*", "*") // what comes first would allow everything
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
		"Effect: at byte":                   `{"Version":"1","Statement":[{"Effect":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}]}`,
	} {
		for action, p := range map[string][]string{
			"CreateRamPolicy": {"PolicyName", "half", "PolicyDocument", doc},
			"UpdateRamPolicy": {"PolicyName", "policy-of-dev", "PolicyDocument", doc},
		} {
			err := b.refused(400, "InvalidParameter", action, p...)
			if !strings.Contains(err.Message, `"PolicyDocument"`) || !strings.Contains(err.Message, reason) ||
				!strings.Contains(err.Message, "at byte") && !strings.Contains(reason, "bytes") {
				t.Errorf("%s: %q does not tell where and that %s", action, err.Message, reason)
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
			t.Errorf("SetKeyPolicy: %q does not tell that %s", a.Message, reason)
		}
		b.want(b.do(b.root, "CreateKey", "KeySpec", "EC_P256", "Policy", doc), 400, "InvalidParameter")
	}
	b.refused(404, "EntityNotExist.Policy", "GetRamPolicy", "PolicyName", "half")
	var got struct {
		Policy struct{ PolicyDocument string }
	}
	b.local("GetRamPolicy", &got, "PolicyName", "policy-of-dev")
	if got.Policy.PolicyDocument != good {
		t.Errorf("a refused update left %s", got.Policy.PolicyDocument)
	}
	if a := b.do(b.root, "GetKeyPolicy", "KeyId", b.key.KeyId); a.Body["Policy"] != goodForKey {
		t.Errorf("a refused SetKeyPolicy left %v", a.Body)
	}
	b.want(b.do(c, "AsymmetricSign", b.signParams()...), 200, "")
	b.want(b.do(c, "DescribeKey", "KeyId", b.key.KeyId), 200, "")
	b.want(b.do(c, "ListKeys"), 403, "Forbidden.NoPermission")

	// What is as large, and as hard to match, as can be is taken, and decided.
	hard := strings.Repeat("*a", 100) + "b"
	c = b.newUser("hard", padded(allow("kms:AsymmetricSign", hard)+","+allow("kms:AsymmetricSign", "*"), policy.MaxDocument))
	b.want(b.do(c, "AsymmetricSign", b.signParams()...), 200, "")
}

// padded makes a document of a number of bytes.
func padded(statement string, size int) string {
	d := document(statement)
	return d[:len(d)-1] + strings.Repeat(" ", size-len(d)) + "}"
}

// TestKeyPolicyAndRamPolicy: a Deny in either wins, an Allow in either suffices,
// and a key without a policy contributes none.
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
		{nothing, forKey("Allow", "root", action), false}, // the user called root is not the account's root either
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
			t.Errorf("RAM policy %s, key policy %s: %d %s, want it to be allowed: %v", tc.ram, tc.key, a.Status, a.Code, tc.allowed)
		}
	}
	// It is that key's policy only.
	b.setKey(func(k *store.Key) { k.Policy = document(forKey("Allow", "user/dev", "kms:*")) })
	b.local("UpdateRamPolicy", nil, "PolicyName", "policy-of-dev", "PolicyDocument", document(nothing))
	b.want(b.do(c, "DescribeKey", "KeyId", b.key.KeyId), 200, "")
	b.want(b.do(c, "DescribeKey", "KeyId", b.newKey()), 403, "Forbidden.NoPermission")
	b.want(b.do(c, "DeleteAlias", "AliasName", "alias/test"), 403, "Forbidden.NoPermission")
	b.want(b.do(c, "ListKeys"), 403, "Forbidden.NoPermission")
}

// TestNobodyIsLockedOut: a key policy that denies everybody everything does not
// deny the local administrator to repair it. A policy that cannot be parsed any
// more denies everybody else, too.
func TestNobodyIsLockedOut(t *testing.T) {
	b := newBench(t)
	for name, doc := range map[string]string{"denies all": document(forKey("Deny", "*", "kms:*")), "broken": `{"Version":`} {
		b.setKey(func(k *store.Key) { k.Policy = doc })
		b.want(b.do(b.root, "DescribeKey", "KeyId", b.key.KeyId), 403, "Forbidden.NoPermission")
		b.want(b.do(b.root, "SetKeyPolicy", "KeyId", b.key.KeyId, "Policy", keyPolicy), 403, "Forbidden.NoPermission")
		b.local("DescribeKey", nil, "KeyId", b.key.KeyId)
		b.local("SetKeyPolicy", nil, "KeyId", b.key.KeyId, "Policy", keyPolicy)
		if a := b.do(b.root, "DescribeKey", "KeyId", b.key.KeyId); a.Status != 200 {
			t.Errorf("%s: after its repair the key is refused: %s", name, a.Code)
		}
	}
}

// TestCaseGames: actions are one spelling in a request, any in a policy; all
// else is compared letter for letter.
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
		{document(allow("AsymmetricSign", mine)), false}, // no service
		{document(allow("ecs:*", "*")), false},
		{document(allow("kms:AsymmetricSig?", "*key/????????-*")), true},
	} {
		c := b.newUser("u"+uuid.NewString(), tc.document)
		if a := b.do(c, "AsymmetricSign", b.signParams()...); (a.Status == 200) != tc.allowed {
			t.Errorf("%s: %d %s", tc.document, a.Status, a.Code)
		}
	}
	nobody := b.newUser("nobody", document(deny("kms:AsymmetricSign", "*"), allow("kms:*", "*")))
	for _, action := range []string{"asymmetricSign", "ASYMMETRICSIGN", "AsymmetricSign ", " AsymmetricSign", "AsymmetricSign\x00", "kms:AsymmetricSign", "AsymmetricSıgn"} {
		for _, c := range []credential{b.root, nobody} {
			b.want(b.do(c, action, b.signParams()...), 404, "InvalidApi.NotFound")
		}
	}
	for name, value := range map[string]string{"action": "AsymmetricSign", "ACTION": "AsymmetricSign", "keyid": b.key.KeyId} {
		a := b.do(nobody, "DescribeKey", "KeyId", b.key.KeyId, name, value) // is another parameter, which means nothing
		b.want(a, 200, "")
	}
	// Users, too: their names are in key policies.
	lower, upper := b.newUser("case", document(allow("kms:none", "*"))), b.newUser("CASE", document(allow("kms:none", "*")))
	b.local("SetKeyPolicy", nil, "KeyId", b.key.KeyId, "Policy", document(forKey("Allow", "user/case", "kms:*")))
	b.want(b.do(lower, "AsymmetricSign", b.signParams()...), 200, "")
	b.want(b.do(upper, "AsymmetricSign", b.signParams()...), 403, "Forbidden.NoPermission")
}

// TestSourceIsTheConnections: no header changes where a request comes from, for
// policies and for the audit log.
func TestSourceIsTheConnections(t *testing.T) {
	b := newBench(t)
	from := func(network string) string {
		return document(`{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{"IpAddress":{"acs:SourceIp":"` + network + `"}}}`)
	}
	far, near := b.newUser("far", from("10.0.0.0/8")), b.newUser("near", from("127.0.0.1"))
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
			t.Errorf("with %s the audit line says Source %s", header, e.Source)
		}
	}
}

// TestLastUsedDate: it is of the last request that was signed rightly, and
// outlives a restart.
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
			t.Fatalf("listed: %+v", list)
		}
		return list.AccessKeys.AccessKey[0].LastUsedDate
	}
	is := func(want string) {
		t.Helper()
		if got := lastUsed(); got != want {
			t.Errorf("LastUsedDate %q, want %q", got, want)
		}
	}
	is("")
	b.want(b.do(credential{c.AccessKeyId, "wrong"}, "ListKeys"), 400, "SignatureDoesNotMatch")
	is("")
	b.want(b.do(c, "ListKeys"), 200, "")
	is("2026-11-21T20:56:37Z")
	b.server.Flush()
	is("2026-11-21T20:56:37Z")
	b.clock.move(time.Minute)
	b.want(b.do(credential{c.AccessKeyId, "wrong"}, "ListKeys"), 400, "SignatureDoesNotMatch")
	is("2026-11-21T20:56:37Z")
	b.want(b.do(c, "Nonsense"), 404, "InvalidApi.NotFound")
	is("2026-11-21T20:57:37Z")
	b.server.Flush()
	b.stop()
	b.start()
	is("2026-11-21T20:57:37Z")
}

// TestNames: what users and policies can be called, and how much can be said of
// them.
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
	b.refused(404, "EntityNotExist.User", "CreateAccessKey", "UserName", "A") // the case counts
}

// TestSystemPolicies: they are there under RAM's names, do what those say, and
// cannot be changed.
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
				t.Errorf("%s: %s %d %s", name, action, a.Status, a.Code)
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
			t.Errorf("%s: %+v, then %+v", name, before, after)
		}
	}
}

// TestDeleteConflict: what is in use is not deleted but by force.
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

// TestSimulatePolicy: it names the statement that decides, and says what the
// request itself is answered with.
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
	b.local("AttachPolicyToUser", nil, "UserName", "dev", "PolicyName", "policy-of-dev") // now it is the second
	for _, tc := range []struct {
		action, key string
		want        simulated
	}{
		{"AsymmetricSign", b.key.KeyId, simulated{true, "", "policy-of-dev", 1}},
		{"AsymmetricSign", "alias/test", simulated{true, "", "policy-of-dev", 1}},
		{"AsymmetricSign", account + "alias/test", simulated{true, "", "policy-of-dev", 1}},
		{"AsymmetricSign", tagged, simulated{false, "no statement allows it", "", 0}},
		{"AsymmetricVerify", b.key.KeyId, simulated{false, "no statement allows it", "", 0}},
		{"DescribeKey", tagged, simulated{true, "", "AliyunKMSReadOnlyAccess", 1}}, // the first of two that allow it
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
				t.Errorf("%s on %s: %+v (%q), want %+v", tc.action, tc.key, got, reason, tc.want)
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
			t.Errorf("%s on %s: the request gets %d %s, the simulation says it is allowed: %v", tc.action, tc.key, a.Status, a.Code, tc.want.Allowed)
		}
		if a.Status == 403 { // its audit line has the same reason
			a = b.do(c, tc.action, slices.DeleteFunc(pairs, func(s string) bool { return s == "DryRun" || s == "true" })...)
			if e, _ := b.auditLine(a.RequestId); !strings.Contains(e.Reason, tc.want.Reason) || tc.want.PolicyName != "" && !strings.Contains(e.Reason, fmt.Sprintf("%q", tc.want.PolicyName)) {
				t.Errorf("%s on %s: the audit line's reason is %q", tc.action, tc.key, e.Reason)
			}
		}
	}
	// Without the policies of the user the key's own decides.
	b.local("DetachPolicyFromUser", nil, "UserName", "dev", "PolicyName", "AliyunKMSReadOnlyAccess")
	var got simulated
	b.local("SimulatePolicy", &got, "UserName", "dev", "ActionName", "DescribeKey", "KeyId", shared)
	if want := (simulated{true, got.Reason, "the key policy", 2}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	b.want(b.do(c, "DescribeKey", "KeyId", shared), 200, "")
	// From elsewhere the Deny does not apply.
	b.local("SimulatePolicy", &got, "UserName", "dev", "ActionName", "GetPublicKey", "KeyId", b.key.KeyId, "SourceIp", "10.0.0.1")
	if want := (simulated{true, got.Reason, "policy-of-dev", 4}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, action := range []string{"CreateUser", "SimulatePolicy", "Encrypt", "asymmetricsign", "kms:", "*"} {
		b.refused(400, "InvalidParameter", "SimulatePolicy", "UserName", "dev", "ActionName", action)
	}
	b.refused(404, "EntityNotExist.User", "SimulatePolicy", "UserName", "none", "ActionName", "ListKeys")
}

// TestSecretsAreShownOnce: an AccessKeySecret is in the answer that makes it,
// and then in no answer, no audit line and not in the database.
func TestSecretsAreShownOnce(t *testing.T) {
	b := newBench(t)
	c := b.newUser("dev", "")
	b.want(b.do(c, "ListKeys"), 200, "")
	for _, action := range []string{"ListUsers", "ListAccessKeys", "ListRamPolicies", "ListQuotas"} {
		var got any
		b.local(action, &got)
		if strings.Contains(fmt.Sprint(got), c.AccessKeySecret) {
			t.Errorf("%s tells an AccessKeySecret", action)
		}
	}
	if text := fmt.Sprintf("%+v", b.auditLines()); strings.Contains(text, c.AccessKeySecret) || !strings.Contains(text, c.AccessKeyId) {
		t.Errorf("the audit log has the secret, or not the access key")
	}
	var lines []audit.Entry
	for _, e := range b.auditLines() {
		if e.Action == "CreateAccessKey" && e.Subject == "dev/"+c.AccessKeyId {
			lines = append(lines, e)
		}
	}
	if len(lines) != 1 || !strings.HasPrefix(lines[0].Principal, "local:") {
		t.Errorf("CreateAccessKey left the lines %+v", lines)
	}
	b.stop()
	for _, name := range []string{"db", "audit.log"} {
		content, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil || bytes.Contains(content, []byte(c.AccessKeySecret)) || !bytes.Contains(content, []byte(c.AccessKeyId)) {
			t.Errorf("%s has the secret, or not the access key: %v", name, err)
		}
	}
}
