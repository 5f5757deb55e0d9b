package gateway_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// listen serves anew, as another kind of listener.
func (b *bench) listen(l gateway.Listener) {
	b.t.Helper()
	b.http.Close()
	b.listener = l
	b.http = httptest.NewUnstartedServer(b.server.Handler(l))
	b.http.Config.ErrorLog = log.New(io.Discard, "", 0) // of connections that were not needed any more
	b.http.StartTLS()
	b.http.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
}

// among sends n requests by some callers at once and counts the answers by their
// code.
func (b *bench) among(callers, n int, send func() answer) map[string]int {
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

// TestSharedQuota: of 64 callers at once as many are served in a second as are
// documented, for each user, and not one more; time gives them back.
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
			if codes := b.among(64, 256, sign(c)); codes[""] != 200 || codes[throttled] != 56 || len(codes) != 2 {
				t.Errorf("of 256 requests in one moment: %v, want 200 served", codes)
			}
		})
	}
	wg.Wait()
	a := b.want(sign(alice)(), 429, throttled)
	if a.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
	}
	if e, _ := b.auditLine(a.RequestId); e.Quota != "asymmetric" || e.Principal != "alice" {
		t.Errorf("audit line %+v", e)
	}
	b.want(b.do(alice, "AsymmetricSign", b.signParams("DryRun", "true")...), 429, throttled) // a dry run is charged, too
	b.want(b.do(alice, "DescribeKey", "KeyId", b.key.KeyId), 200, "")                        // of another quota
	a = b.want(sign(carol)(), 200, "")
	if e, _ := b.auditLine(a.RequestId); e.Quota != "asymmetric" {
		t.Errorf("audit line %+v", e)
	}
	for _, step := range []struct {
		move time.Duration
		want int
	}{{50 * time.Millisecond, 10}, {0, 0}, {10 * time.Minute, 200}} {
		b.clock.move(step.move)
		if codes := b.among(2, step.want+8, sign(alice)); codes[""] != step.want || codes[throttled] != 8 {
			t.Errorf("after %v: %v, want %d served", step.move, codes, step.want)
		}
	}
}

// documented are KMS's quotas of a shared gateway, and what is charged to each
// ("QPS quotas of KMS instances"; those of key policies and access points as what they do).
var documented = map[string]struct {
	perSecond  int
	operations string
}{
	"activation":    {1, "OpenKmsService DescribeAccountKmsStatus"},
	"instance_read": {50, "GetKmsInstance ListKmsInstances"},
	"key_read": {50, "DescribeKey ListKeys DescribeKeyVersion ListKeyVersions GetPublicKey ListAliases ListAliasesByKeyId ListTagResources " +
		"DescribeRegions GetKeyPolicy DescribeNetworkRule ListNetworkRules DescribePolicy ListPolicies DescribeApplicationAccessPoint " +
		"ListApplicationAccessPoints GetClientKey ListClientKeys"},
	"tag_query":    {300, "ListResourceTags"},
	"key_creation": {10, "CreateKey"},
	"key_write": {30, "EnableKey DisableKey ScheduleKeyDeletion CancelKeyDeletion SetDeletionProtection UpdateKeyDescription CreateKeyVersion " +
		"CreateAlias UpdateAlias DeleteAlias TagResource UntagResource TagResources UntagResources SetKeyPolicy " +
		"CreateNetworkRule UpdateNetworkRule DeleteNetworkRule CreatePolicy UpdatePolicy DeletePolicy CreateApplicationAccessPoint " +
		"UpdateApplicationAccessPoint DeleteApplicationAccessPoint CreateClientKey DeleteClientKey"},
	"asymmetric": {200, "AsymmetricSign AsymmetricVerify"},
}

// TestQuotaClasses: every operation is charged as documented, the operations of
// one quota share it, and no other quota is touched.
func TestQuotaClasses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.listen(gateway.Listener{Gateway: gateway.SharedGateway})
	var all []string
	over := make(map[string]string) // RequestId → quota
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
				t.Fatalf("%s: request %d in a second, of %s, is one too many; documented are %d", name, i+1, action, class.perSecond)
			}
		}
		for _, action := range actions {
			a := b.do(b.root, action, scenarios[action]...)
			if a.Status != 429 || a.Code != throttled {
				t.Errorf("%s: request %d in a second, of %s: %d %s", name, class.perSecond+1, action, a.Status, a.Code)
			}
			over[a.RequestId] = name
		}
	}
	for _, e := range b.auditLines() {
		if want, ok := over[e.RequestId]; ok && (e.Quota != want || e.Code != throttled) {
			t.Errorf("%s: audit line %+v, want it to be charged to %s", e.Action, e, want)
		}
		delete(over, e.RequestId)
	}
	if len(over) > 0 {
		t.Errorf("%d requests have no audit line", len(over))
	}
	slices.Sort(all)
	if !slices.Equal(all, operationsOf(kms.RPC)) {
		t.Errorf("the quotas are of %v, the operations are %v", all, operationsOf(kms.RPC))
	}
}

// TestDedicatedQuota: business operations are limited for each user and for the
// instance, others are not; without figures nothing is.
func TestDedicatedQuota(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *gateway.Config) { c.Quotas.DedicatedUser, c.Quotas.DedicatedInstance = 5, 8 })
	b.listen(gateway.Listener{Gateway: gateway.DedicatedGateway})
	alice, bob := b.newUser("alice", ""), b.newUser("bob", "")
	ask := func(c credential, action string, p ...string) (passed bool, quota string) {
		t.Helper()
		a := b.do(c, action, p...)
		if a.Status != 200 && a.Code != throttled {
			t.Fatalf("%s: %d %s", action, a.Status, a.Code)
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
		who    credential
		passed bool
		quota  string
	}{
		{alice, true, "dedicated"}, {alice, true, "dedicated"}, {alice, true, "dedicated"}, {alice, true, "dedicated"}, {alice, true, "dedicated"},
		{alice, false, "dedicated"}, // her own 5
		{bob, true, "dedicated"}, {bob, true, "dedicated"}, {bob, true, "dedicated"},
		{bob, false, "dedicated_instance"}, // the 8 of all
		{alice, false, "dedicated"},
	} {
		if passed, quota := business(want.who, i); passed != want.passed || quota != want.quota {
			t.Errorf("request %d: passed %v, charged to %q, want %v, %q", i+1, passed, quota, want.passed, want.quota)
		}
	}
	for range 10 {
		if passed, quota := ask(alice, "DescribeKey", "KeyId", b.key.KeyId); !passed || quota != "" {
			t.Errorf("DescribeKey: passed %v, charged to %q", passed, quota)
		}
	}
	b.clock.move(time.Second)
	for i := range 5 {
		if passed, _ := business(alice, i); !passed {
			t.Errorf("request %d of the next second is refused", i+1)
		}
	}
	free := newBench(t)
	if codes := free.among(8, 320, func() answer { return free.do(free.root, "AsymmetricVerify", free.signParams("Value", "AAAA")...) }); codes[""] != 320 {
		t.Errorf("without figures, of 320 requests in one moment: %v", codes)
	}
}

// TestSetUserQuota: a user's own figure holds from the next request on, until it
// is taken back; others keep theirs.
func TestSetUserQuota(t *testing.T) {
	b := newBench(t, func(c *gateway.Config) {
		c.Quotas.Shared = map[string]float64{"key_read": 3}
		c.Quotas.DedicatedUser = 2
	})
	b.listen(gateway.Listener{Gateway: gateway.SharedGateway})
	alice, bob := b.newUser("alice", ""), b.newUser("bob", "")
	served := func(c credential, want int) {
		t.Helper()
		n := 0
		for range want + 3 {
			if a := b.do(c, "DescribeKey", "KeyId", b.key.KeyId); a.Status == 200 {
				n++
			}
		}
		if n != want {
			t.Errorf("%d requests are served in a second, want %d", n, want)
		}
	}
	set := func(perSecond string) {
		b.local("SetUserQuota", nil, "UserName", "alice", "QuotaName", "key_read", "QueriesPerSecond", perSecond)
	}
	listed := func() (s string) {
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
	const everybody = "shared key_read  3; dedicated dedicated  2; dedicated dedicated_instance  0; "
	served(alice, 3)
	set("10")
	served(alice, 0) // in the same second: the bucket is empty, and fills faster
	b.clock.move(500 * time.Millisecond)
	served(alice, 5)
	if got, want := listed(), everybody+"shared key_read alice 10; "; got != want {
		t.Errorf("listed: %s, want %s", got, want)
	}
	b.clock.move(time.Minute)
	served(alice, 10)
	b.clock.move(time.Minute)
	set("1")
	served(alice, 1) // not what had been saved up
	served(bob, 3)
	b.stop()
	b.start(func(c *gateway.Config) { c.Quotas.Shared = map[string]float64{"key_read": 3} })
	b.listen(b.listener)
	served(alice, 1)
	b.clock.move(time.Minute)
	set("")
	served(alice, 1) // the bucket grows, and what is in it does not
	b.clock.move(time.Second)
	served(alice, 3)

	// On a dedicated gateway it is another quota.
	b.listen(gateway.Listener{})
	b.local("SetUserQuota", nil, "UserName", "alice", "QuotaName", "dedicated", "QueriesPerSecond", "1")
	b.want(b.do(alice, "AsymmetricSign", b.signParams()...), 200, "")
	b.want(b.do(alice, "AsymmetricSign", b.signParams()...), 429, throttled)
	b.want(b.do(bob, "AsymmetricSign", b.signParams()...), 200, "")
	b.want(b.do(bob, "AsymmetricSign", b.signParams()...), 200, "")
}

// TestBusinessOnly: such a listener has the three business operations and no
// other, to nobody.
func TestBusinessOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, kind := range []string{gateway.DedicatedGateway, gateway.SharedGateway} {
		b.listen(gateway.Listener{Gateway: kind, BusinessOnly: true})
		for _, action := range operationsOf(kms.RPC) {
			p := b.scenario(action)
			before := b.records()
			a := b.do(b.root, action, p...)
			if slices.Contains([]string{"AsymmetricSign", "AsymmetricVerify", "GetPublicKey"}, action) {
				b.want(a, 200, "")
				continue
			}
			if e, _ := b.auditLine(a.RequestId); a.Status != 400 || a.Code != "UnsupportedOperation" || e.Code != a.Code || e.Quota != "" || e.Principal != "root" {
				t.Errorf("%s: %d %s, audit line %+v", action, a.Status, a.Code, e)
			}
			if b.records() != before {
				t.Errorf("%s: refused, it changed records", action)
			}
		}
		b.want(b.do(b.root, "CreateUser", "UserName", "x"), 404, "InvalidApi.NotFound")
		b.want(b.do(b.root, "Encrypt"), 400, "UnsupportedOperation")
	}
}
