package gateway_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
)

// listen closes the bench's listener and serves as another kind of listener.
func (b *bench) listen(l gateway.Listener) {
	b.t.Helper()
	b.http.Close()
	b.listener = l
	b.http = httptest.NewUnstartedServer(b.server.Handler(l))
	b.http.Config.ErrorLog = log.New(io.Discard, "", 0) // for errors of connections that clients close
	b.http.StartTLS()
	b.http.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
}

// countCodes sends n requests by the given number of concurrent callers and counts the codes of the
// answers.
func (b *bench) countCodes(callers, n int, send func() answer) map[string]int {
	var mu sync.Mutex
	codes := make(map[string]int)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range n / callers {
				a := send()
				mu.Lock()
				codes[a.Code]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return codes
}

const throttled = "Rejected.Throttling"

// TestSharedQuota checks that a user's 64 concurrent callers get exactly the documented number of
// requests in a second, that users do not affect each other, and that the quota refills over time.
func TestSharedQuota(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.listen(gateway.Listener{Gateway: gateway.SharedGateway})
	alice, bob, carol := b.newUser("alice", ""), b.newUser("bob", ""), b.newUser("carol", "")
	sign := func(c credential) func() answer {
		return func() answer { return b.do(c, "AsymmetricSign", b.signParams()...) }
	}
	var wg sync.WaitGroup
	for _, c := range []credential{alice, bob} {
		wg.Go(func() {
			if codes := b.countCodes(64, 256, sign(c)); codes[""] != 200 || codes[throttled] != 56 || len(codes) != 2 {
				t.Errorf("codes of 256 simultaneous requests: %v, want 200 successes and 56 %s", codes, throttled)
			}
		})
	}
	wg.Wait()
	a := b.want(sign(alice)(), 429, throttled)
	if a.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q, want 1", a.Header.Get("Retry-After"))
	}
	if e, _ := b.auditLine(a.RequestId); e.Quota != "asymmetric" || e.Principal != "alice" {
		t.Errorf("audit line %+v, want the quota asymmetric of alice", e)
	}
	// Dry runs are charged, too. DescribeKey has another quota.
	b.want(b.do(alice, "AsymmetricSign", b.signParams("DryRun", "true")...), 429, throttled)
	b.want(b.do(alice, "DescribeKey", "KeyId", b.key.KeyId), 200, "")
	a = b.want(sign(carol)(), 200, "")
	if e, _ := b.auditLine(a.RequestId); e.Quota != "asymmetric" {
		t.Errorf("audit line %+v, want the quota asymmetric", e)
	}
	for _, step := range []struct {
		move time.Duration
		want int
	}{{50 * time.Millisecond, 10}, {0, 0}, {10 * time.Minute, 200}} {
		b.clock.move(step.move)
		if codes := b.countCodes(2, step.want+8, sign(alice)); codes[""] != step.want || codes[throttled] != 8 {
			t.Errorf("codes after %v: %v, want %d successes and 8 %s", step.move, codes, step.want, throttled)
		}
	}
}

// documented lists KMS's quotas of a shared gateway, and the operations charged to each ("QPS
// quotas of KMS instances"). Operations on key policies and access points are charged by what they
// do.
var documented = map[string]struct {
	perSecond  int
	operations string
}{
	"activation":    {1, "OpenKmsService DescribeAccountKmsStatus"},
	"instance_read": {50, "GetKmsInstance ListKmsInstances"},
	"key_read": {50, "DescribeKey ListKeys DescribeKeyVersion ListKeyVersions GetPublicKey " +
		"ListAliases ListAliasesByKeyId ListTagResources DescribeRegions GetKeyPolicy " +
		"DescribeNetworkRule ListNetworkRules DescribePolicy ListPolicies " +
		"DescribeApplicationAccessPoint ListApplicationAccessPoints GetClientKey ListClientKeys"},
	"tag_query":    {300, "ListResourceTags"},
	"key_creation": {10, "CreateKey"},
	"key_write": {30, "EnableKey DisableKey ScheduleKeyDeletion CancelKeyDeletion SetDeletionProtection " +
		"UpdateKeyDescription CreateKeyVersion CreateAlias UpdateAlias DeleteAlias " +
		"TagResource UntagResource TagResources UntagResources SetKeyPolicy " +
		"CreateNetworkRule UpdateNetworkRule DeleteNetworkRule CreatePolicy UpdatePolicy DeletePolicy " +
		"CreateApplicationAccessPoint UpdateApplicationAccessPoint DeleteApplicationAccessPoint " +
		"CreateClientKey DeleteClientKey"},
	"asymmetric": {200, "AsymmetricSign AsymmetricVerify"},
}

// TestQuotaClasses checks that every operation is charged to the documented quota and to no other,
// and that the operations of one quota share it.
func TestQuotaClasses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.listen(gateway.Listener{Gateway: gateway.SharedGateway})
	var all []string
	rejections := make(map[string]string) // RequestId → quota
	for name, class := range documented {
		actions := strings.Fields(class.operations)
		all = append(all, actions...)
		scenarios := make(map[string][]string)
		for _, action := range actions {
			scenarios[action] = append(b.scenario(action), "DryRun", "true")
		}
		for i := range class.perSecond {
			action := actions[i%len(actions)]
			if a := b.do(b.root, action, scenarios[action]...); a.Status == 429 {
				t.Fatalf("%s: request %d in a second, %s: status 429, want %d successes",
					name, i+1, action, class.perSecond)
			}
		}
		for _, action := range actions {
			a := b.do(b.root, action, scenarios[action]...)
			if a.Status != 429 || a.Code != throttled {
				t.Errorf("%s: request %d in a second, %s: %d %s, want 429 %s",
					name, class.perSecond+1, action, a.Status, a.Code, throttled)
			}
			rejections[a.RequestId] = name
		}
	}
	for _, e := range b.auditLines() {
		if want, ok := rejections[e.RequestId]; ok && (e.Quota != want || e.Code != throttled) {
			t.Errorf("%s: audit line %+v, want the quota %s and %s", e.Action, e, want, throttled)
		}
		delete(rejections, e.RequestId)
	}
	if len(rejections) > 0 {
		t.Errorf("throttled requests without an audit line: %d, want 0", len(rejections))
	}
	slices.Sort(all)
	if !slices.Equal(all, operationsOf(kms.RPC)) {
		t.Errorf("operations with a documented quota: %v, want %v", all, operationsOf(kms.RPC))
	}
}

// TestDedicatedQuota checks that business operations are limited for each user and for the
// instance, and that other operations have another limit for each user. Without configured
// quotas, nothing is limited.
func TestDedicatedQuota(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *gateway.Config) {
		c.Quotas.DedicatedUser, c.Quotas.DedicatedInstance, c.Quotas.DedicatedOther = 5, 8, 10
	})
	b.listen(gateway.Listener{Gateway: gateway.DedicatedGateway})
	alice, bob := b.newUser("alice", ""), b.newUser("bob", "")
	ask := func(c credential, action string, p ...string) (passed bool, quota string) {
		t.Helper()
		a := b.do(c, action, p...)
		if a.Status != 200 && a.Code != throttled {
			t.Fatalf("%s: %d %s, want 200 or %s", action, a.Status, a.Code, throttled)
		}
		e, _ := b.auditLine(a.RequestId)
		return a.Status == 200, e.Quota
	}
	business := func(c credential, i int) (bool, string) {
		switch i % 3 {
		case 0:
			return ask(c, "AsymmetricSign", b.signParams()...)
		case 1:
			return ask(c, "AsymmetricVerify", b.signParams("Value", "AAAA")...)
		}
		return ask(c, "GetPublicKey", "KeyId", b.key.KeyId, "KeyVersionId", b.key.KeyVersionId)
	}
	for i, want := range []struct {
		user   credential
		passed bool
		quota  string
	}{
		{alice, true, "dedicated"}, {alice, true, "dedicated"}, {alice, true, "dedicated"},
		{alice, true, "dedicated"}, {alice, true, "dedicated"},
		{alice, false, "dedicated"}, // the limit of 5 for one user
		{bob, true, "dedicated"}, {bob, true, "dedicated"}, {bob, true, "dedicated"},
		{bob, false, "dedicated_instance"}, // the limit of 8 for the instance
		{alice, false, "dedicated"},
	} {
		if passed, quota := business(want.user, i); passed != want.passed || quota != want.quota {
			t.Errorf("request %d: passed %v, quota %q, want %v and %q", i+1, passed, quota, want.passed, want.quota)
		}
	}
	for i := range 11 {
		passed, quota := ask(alice, "DescribeKey", "KeyId", b.key.KeyId)
		if passed != (i < 10) || quota != "dedicated_other" {
			t.Errorf("DescribeKey %d: passed %v, quota %q, want %v and dedicated_other", i+1, passed, quota, i < 10)
		}
	}
	if passed, _ := ask(bob, "DescribeKey", "KeyId", b.key.KeyId); !passed {
		t.Error("DescribeKey by bob was throttled, want a separate quota")
	}
	b.clock.move(time.Second)
	for i := range 5 {
		if passed, _ := business(alice, i); !passed {
			t.Errorf("request %d of the next second was throttled, want 5 successes", i+1)
		}
	}
	free := newBench(t)
	verify := func() answer { return free.do(free.root, "AsymmetricVerify", free.signParams("Value", "AAAA")...) }
	if codes := free.countCodes(8, 320, verify); codes[""] != 320 {
		t.Errorf("codes of 320 simultaneous requests without quotas: %v, want 320 successes", codes)
	}
}

// TestSetUserQuota checks that a user's quota takes effect with the next request and until it is
// removed, and that the quotas of other users do not change.
func TestSetUserQuota(t *testing.T) {
	b := newBench(t, func(c *gateway.Config) {
		c.Quotas.Shared = map[string]float64{"key_read": 3}
		c.Quotas.DedicatedUser = 2
	})
	b.listen(gateway.Listener{Gateway: gateway.SharedGateway})
	alice, bob := b.newUser("alice", ""), b.newUser("bob", "")
	checkServed := func(c credential, want int) {
		t.Helper()
		n := 0
		for range want + 3 {
			if a := b.do(c, "DescribeKey", "KeyId", b.key.KeyId); a.Status == 200 {
				n++
			}
		}
		if n != want {
			t.Errorf("successes in a second: %d, want %d", n, want)
		}
	}
	set := func(perSecond string) {
		b.local("SetUserQuota", nil, "UserName", "alice", "QuotaName", "key_read", "QueriesPerSecond", perSecond)
	}
	listQuotas := func() (s string) {
		var list struct {
			Quotas struct {
				Quota []struct {
					Gateway, QuotaName, UserName string
					QueriesPerSecond             float64
				}
			}
		}
		b.local("ListQuotas", &list)
		for _, q := range list.Quotas.Quota {
			if q.QuotaName == "key_read" || strings.HasPrefix(q.QuotaName, "dedicated") {
				s += fmt.Sprintf("%s %s %s %g; ", q.Gateway, q.QuotaName, q.UserName, q.QueriesPerSecond)
			}
		}
		return s
	}
	const defaults = "shared key_read  3; dedicated dedicated  2; dedicated dedicated_instance  0; dedicated dedicated_other  0; "
	checkServed(alice, 3)
	set("10")
	checkServed(alice, 0) // in the same second, the bucket is still empty, but it fills faster
	b.clock.move(500 * time.Millisecond)
	checkServed(alice, 5)
	if got, want := listQuotas(), defaults+"shared key_read alice 10; "; got != want {
		t.Errorf("ListQuotas: %s, want %s", got, want)
	}
	b.clock.move(time.Minute)
	checkServed(alice, 10)
	b.clock.move(time.Minute)
	set("1")
	checkServed(alice, 1) // what the bucket held is cut to the new limit
	checkServed(bob, 3)
	b.stop()
	b.start(func(c *gateway.Config) { c.Quotas.Shared = map[string]float64{"key_read": 3} })
	b.listen(b.listener)
	checkServed(alice, 1)
	b.clock.move(time.Minute)
	set("")
	checkServed(alice, 1) // the bucket is larger, but holds no more than before
	b.clock.move(time.Second)
	checkServed(alice, 3)

	// A dedicated gateway has another quota.
	b.listen(gateway.Listener{})
	b.local("SetUserQuota", nil, "UserName", "alice", "QuotaName", "dedicated", "QueriesPerSecond", "1")
	b.want(b.do(alice, "AsymmetricSign", b.signParams()...), 200, "")
	b.want(b.do(alice, "AsymmetricSign", b.signParams()...), 429, throttled)
	b.want(b.do(bob, "AsymmetricSign", b.signParams()...), 200, "")
	b.want(b.do(bob, "AsymmetricSign", b.signParams()...), 200, "")
}

// TestSetQuotas checks that new quotas apply from the next request on, that a user's quota stays, and
// that invalid quotas change nothing.
func TestSetQuotas(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *gateway.Config) { c.Quotas.Shared = map[string]float64{"key_read": 3} })
	b.listen(gateway.Listener{Gateway: gateway.SharedGateway})
	alice, bob := b.newUser("alice", ""), b.newUser("bob", "")
	b.local("SetUserQuota", nil, "UserName", "bob", "QuotaName", "key_read", "QueriesPerSecond", "2")
	checkServed := func(c credential, want int) {
		t.Helper()
		codes := b.countCodes(1, 20, func() answer { return b.do(c, "DescribeKey", "KeyId", b.key.KeyId) })
		if codes[""] != want || codes[throttled] != 20-want {
			t.Errorf("codes in a second: %v, want %d successes", codes, want)
		}
	}
	checkServed(alice, 3)
	checkServed(bob, 2)
	if err := b.server.SetQuotas(limit.Quotas{Shared: map[string]float64{"key_read": 7}}); err != nil {
		t.Fatal(err)
	}
	if err := b.server.SetQuotas(limit.Quotas{Shared: map[string]float64{"key_read": 0}}); err == nil {
		t.Error("SetQuotas with a quota of 0: got no error")
	}
	b.clock.move(time.Minute) // for the first, the bucket holds no more than before
	checkServed(alice, 3)
	b.clock.move(time.Minute)
	checkServed(alice, 7)
	checkServed(bob, 2)
}

// TestBusinessOnly checks that a listener for business operations offers the three business
// operations of the RPC API and no other.
func TestBusinessOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, kind := range []string{gateway.DedicatedGateway, gateway.SharedGateway} {
		b.listen(gateway.Listener{Gateway: kind, BusinessOnly: true})
		for _, action := range operationsOf(kms.RPC) {
			b.clock.move(time.Second) // refills the quota
			p := b.scenario(action)
			before := b.records()
			a := b.do(b.root, action, p...)
			if slices.Contains([]string{"AsymmetricSign", "AsymmetricVerify", "GetPublicKey"}, action) {
				b.want(a, 200, "")
				continue
			}
			b.want(a, 400, "UnsupportedOperation")
			quota := map[string]string{gateway.DedicatedGateway: "dedicated_other", gateway.SharedGateway: "key_read"}[kind]
			if e, _ := b.auditLine(a.RequestId); e.Code != a.Code || e.Quota != quota || e.Principal != "root" {
				t.Errorf("%s: audit line %+v, want %s by root with the quota %s", action, e, a.Code, quota)
			}
			if b.records() != before {
				t.Errorf("%s changed records, although it was refused", action)
			}
		}
		b.want(b.do(b.root, "CreateUser", "UserName", "x"), 404, "InvalidApi.NotFound")
		b.want(b.do(b.root, "Encrypt"), 400, "UnsupportedOperation")
	}
}

// TestNonceMemory checks how many nonces the gateway remembers with a limit of its memory: one for every
// 192 bytes.
func TestNonceMemory(t *testing.T) {
	before := debug.SetMemoryLimit(960_000_000)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	b := newBench(t)
	if got := b.metric("kmsgate_nonces_max"); got != "5e+06" {
		t.Errorf("with 960 MB: got at most %s nonces, want 5e+06", got)
	}
}
