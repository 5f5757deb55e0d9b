package gateway_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
)

// newNobody creates a user with an access key and without a policy.
func (b *bench) newNobody(name string) (c credential) {
	b.t.Helper()
	b.local("CreateUser", nil, "UserName", name)
	b.local("CreateAccessKey", &c, "UserName", name)
	return c
}

// shared returns the audit events that count refusals of a principal, by their code.
func (b *bench) shared(principal string) map[string][]audit.Event {
	b.t.Helper()
	all := make(map[string][]audit.Event)
	_, events := b.readAudit()
	for _, e := range events {
		if e.Kind == audit.KindSuppressed && e.Principal == principal {
			all[e.Code] = append(all[e.Code], e)
		}
	}
	return all
}

// logged returns how many refusals of a principal the audit log accounts for, by their code: those
// with a line, those that share one, and the number of these lines.
func (b *bench) logged(principal string) (own, counted map[string]int, events int) {
	b.t.Helper()
	own, counted = make(map[string]int), make(map[string]int)
	for _, e := range b.auditLines() {
		if e.Principal == principal && e.Code != "" {
			own[e.Code]++
		}
	}
	for code, all := range b.shared(principal) {
		for _, e := range all {
			counted[code] += e.Suppressed
			events++
		}
	}
	return own, counted, events
}

// TestRefusalsFillNoDisk checks that a user without rights cannot fill the disk: of thousands of
// refusals a limited number has a line, and a line for each code counts the rest.
func TestRefusalsFillNoDisk(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{gateway.DedicatedGateway, gateway.SharedGateway} {
		t.Run(kind, func(t *testing.T) {
			b := newLimitedBench(t, limit.LogLines{})
			b.listen(gateway.Listener{Gateway: kind})
			nobody := b.newNobody("nobody")
			requests := [][]string{
				{"Nonsense"}, {"Encrypt", "KeyId", "x"}, {"DescribeKey", "KeyId", "none"}, {"DescribeKey"},
				append([]string{"AsymmetricSign"}, b.signParams()...), {"ListKeys", "DryRun", "true"},
			}
			const n, later = 10_000, 30 * time.Second
			began := b.clock.Now()
			answers := make(map[string]int)
			for i := range n {
				if i == n/2 {
					b.clock.move(later)
				}
				r := requests[i%len(requests)]
				a := b.sendFrom("10.0.0.1:1", b.sign(nobody, "GET", r[0], params(r[1:]...)).Encode())
				if a.Status == 200 || a.Status >= 500 {
					t.Fatalf("request %d, %v: got %d, want a refusal", i, r, a.Status)
				}
				answers[a.Code]++
			}
			b.eventually("all refusals to be in the log", func() bool {
				b.server.Flush() // repeated, because a busy log does not accept such events
				own, counted, _ := b.logged("nobody")
				for code, n := range answers {
					if own[code]+counted[code] != n {
						return false
					}
				}
				return true
			})
			own, counted, events := b.logged("nobody")
			lines := 0
			for _, n := range own {
				lines += n
			}
			limits := limit.DefaultLogLines
			if want := int(limits.PerCaller + limits.PerCallerPerMinute*later.Minutes()); lines != want || events != len(counted) {
				t.Errorf("got %d lines and %d events for the codes %v, want %d lines and an event for each code",
					lines, events, counted, want)
			}
			throttledToo := kind == gateway.SharedGateway
			if answers[throttled] > 0 != throttledToo || len(answers) < 4 {
				t.Errorf("got the codes %v, want at least four, with %s: %v", answers, throttled, throttledToo)
			}
			for code, all := range b.shared("nobody") {
				if e := all[0]; e.First.Before(began) || e.Last.After(b.clock.Now()) || e.Last.Before(e.First) || e.Source != "10.0.0.1" {
					t.Errorf("%s: got %+v, want the times of the first and the last, from 10.0.0.1", code, e)
				}
			}
			// Another caller, and a stranger, still have their lines.
			b.want(b.do(b.root, "Nonsense"), 404, "InvalidApi.NotFound")
			b.want(b.do(credential{b.root.AccessKeyId, "wrong"}, "ListKeys"), 400, "SignatureDoesNotMatch")
		})
	}
}

// TestSuccessesHaveLines checks that requests that succeed, and refusals of local administrators,
// have a line each after the caller has no line for refusals left.
func TestSuccessesHaveLines(t *testing.T) {
	b := newLimitedBench(t, limit.LogLines{PerCaller: 2})
	for range 5 {
		b.do(b.root, "Nonsense")
	}
	for i := range 5 {
		b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
		b.want(b.do(b.root, "CreateAlias", "AliasName", fmt.Sprint("alias/a", i), "KeyId", b.key.KeyId), 200, "")
	}
	if own, _, _ := b.logged("root"); own["InvalidApi.NotFound"] != 2 {
		t.Errorf("5 refusals: got %d lines, want 2", own["InvalidApi.NotFound"])
	}
	before := len(b.auditLines())
	for range 5 {
		if err := b.server.Call(t.Context(), "Nonsense", nil, nil); err == nil {
			t.Error("Nonsense at the local door: got no error")
		}
	}
	if n := len(b.auditLines()) - before; n != 5 {
		t.Errorf("5 refusals of a local administrator: got %d lines, want 5", n)
	}
}

// TestUnknownActionsCharged checks that a request for an operation that does not exist, or that the
// gateway does not support, is charged to the quota for reading, at both doors of the network.
func TestUnknownActionsCharged(t *testing.T) {
	b, native := nativeBench(t, func(c *gateway.Config) { c.Quotas.DedicatedOther = 50 })
	actions := []string{"Nonsense", "Encrypt", "CreateUser"}
	for kind, quota := range map[string]string{gateway.SharedGateway: "key_read", gateway.DedicatedGateway: "dedicated_other"} {
		b.listen(gateway.Listener{Gateway: kind})
		for door, send := range map[kms.Door]func(action string) answer{
			kms.RPC:    func(action string) answer { return b.do(b.root, action) },
			kms.Native: func(action string) answer { return native.do(action, new(nativepb.GenerateRandomRequest), nil) },
		} {
			b.clock.move(time.Minute) // fills the bucket: it has 50 tokens with both quotas
			for i := range 60 {
				a := send(actions[i%len(actions)])
				if (a.Code == throttled) != (i >= 50) {
					t.Errorf("%s listener, %s door, request %d: got %d %s, want throttling from the 51st on", kind, door, i+1, a.Status, a.Code)
				}
				if i == 0 || i == 59 {
					if e, _ := b.auditLine(a.RequestId); e.Quota != quota {
						t.Errorf("%s listener, %s door, request %d: got the quota %q, want %q", kind, door, i+1, e.Quota, quota)
					}
				}
			}
		}
	}
}

// withReserve restarts the bench with a reserve of the audit log's disk. set sets the free space,
// which is enough at first.
func (b *bench) withReserve() (set func(free uint64)) {
	b.t.Helper()
	var free atomic.Uint64
	free.Store(1 << 30)
	b.stop()
	b.auditConfig = func(c *audit.Config) {
		c.Reserve = 64 << 20
		c.Space = func() (audit.Space, error) { return audit.Space{Free: free.Load(), Size: 1 << 40}, nil }
	}
	b.start()
	return free.Store
}

// TestReserve checks that only local administrators are served, with audit lines, while the disk of
// the audit log has less free space than the reserve. Nobody else adds a line then. Users are served
// again as soon as there is space.
func TestReserve(t *testing.T) {
	b := newBench(t)
	setFree := b.withReserve()
	describe := func() answer { return b.do(b.root, "DescribeKey", "KeyId", b.key.KeyId) }
	b.want(describe(), 200, "")
	setFree(64<<20 - 1)
	b.eventually("the gateway to refuse users", func() bool { return describe().Status == 503 })
	before := b.log.Head().Seq
	stranger := credential{b.root.AccessKeyId, "wrong"}
	for _, action := range []string{"AsymmetricSign", "CreateKey", "Nonsense", "DescribeKey"} {
		a := b.do(b.root, action, b.signParams()...)
		if a.Status != 503 || a.Code != "ServiceUnavailableTemporary" || a.Header.Get("Retry-After") == "" || a.Body["Value"] != nil {
			t.Errorf("%s by a user: got %d %s, want 503 ServiceUnavailableTemporary with Retry-After", action, a.Status, a.Code)
		}
		if a := b.do(stranger, action); a.Status != 400 || a.Code != "SignatureDoesNotMatch" {
			t.Errorf("%s by a stranger: got %d %s, want 400 SignatureDoesNotMatch", action, a.Status, a.Code)
		}
	}
	b.server.Flush()
	if head := b.log.Head().Seq; head != before {
		t.Errorf("refusals added %d lines, want none", head-before)
	}
	if status, text := b.observe("/ready"); status != 503 || !strings.Contains(text, "reserve") || b.metric("kmsgate_audit_reserve_used") != "1" {
		t.Errorf("/ready: got %d %q, kmsgate_audit_reserve_used %s, want 503 with the reason, 1", status, text, b.metric("kmsgate_audit_reserve_used"))
	}
	b.local("CreateAlias", nil, "AliasName", "alias/local", "KeyId", b.key.KeyId)
	if err := b.admin().Do(t.Context(), kms.AdminRequest{Action: "ListUsers"}, nil); err != nil {
		t.Errorf("ListUsers at the admin socket: %v", err)
	}
	if head := b.log.Head().Seq; head != before+2 {
		t.Errorf("two requests of administrators added %d lines, want 2", head-before)
	}
	setFree(1 << 30)
	b.eventually("the gateway to serve users", func() bool { return describe().Status == 200 })
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
	if status, text := b.observe("/ready"); status != 200 || text != "ok\n" || b.metric("kmsgate_audit_reserve_used") != "0" {
		t.Errorf("/ready with enough space: got %d %q, kmsgate_audit_reserve_used %s, want 200 ok, 0", status, text, b.metric("kmsgate_audit_reserve_used"))
	}
	for principal, least := range map[string]int{"root": 5, "": 4} {
		b.eventually(fmt.Sprintf("the event about refusals of %q", principal), func() bool {
			b.server.Flush() // repeated, because a busy log does not accept such events
			n := 0
			for _, all := range b.shared(principal) {
				for _, e := range all {
					n += e.Suppressed
				}
			}
			return n >= least
		})
	}
}

// TestHostileTextInLog sends characters that act on a terminal through three doors. They are
// escaped in the file of the audit log, which verifies.
func TestHostileTextInLog(t *testing.T) {
	const hostile = "\x7f\u0080\u009b2J\u061c\u200e\u202e\u2066\u2028\ufeff"
	b, native := nativeBench(t)
	ids := []string{
		b.do(b.root, hostile).RequestId,
		b.do(b.root, "DescribeKey", "KeyId", hostile).RequestId,
		b.do(b.root, "DescribeKey", "KeyId", "alias/"+hostile).RequestId,
		native.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: hostile}, nil).RequestId,
	}
	for _, id := range ids {
		if e, _ := b.auditLine(id); !strings.Contains(e.Action+e.KeyId+e.Alias, "\u009b") {
			t.Errorf("got the audit line %+v, want the text in it", e)
		}
	}
	_ = b.admin().Do(t.Context(), kms.AdminRequest{Action: hostile}, nil) // refused
	content, err := os.ReadFile(filepath.Join(b.dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	if i := strings.IndexFunc(string(content), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("the log has %q, want only printable characters", content[i:min(i+20, len(content))])
	}
	if _, err := (audit.Verifier{}).Verify(audit.File{Name: "audit.log", Reader: bytes.NewReader(content)}); err != nil {
		t.Errorf("Verify: %v", err)
	}
}
