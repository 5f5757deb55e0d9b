package gateway_test

import (
	"crypto/tls"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

// newLimitedBench returns a bench with limits on the audit lines about refusals.
func newLimitedBench(t *testing.T, lines limit.LogLines) *bench {
	t.Helper()
	return newBench(t, func(c *gateway.Config) { c.LogLines = lines })
}

// sendFrom passes a request with a remote address to the handler, without a connection.
func (b *bench) sendFrom(address, query string) answer {
	b.t.Helper()
	r := httptest.NewRequest("GET", "/?"+query, nil)
	r.RemoteAddr, r.TLS = address, new(tls.ConnectionState)
	w := httptest.NewRecorder()
	b.http.Config.Handler.ServeHTTP(w, r)
	return readAnswer(b.t, w.Result())
}

// refusals waits for the given number of suppressed events. It returns the audit lines of refused
// unauthenticated requests, and the events, which count the refusals without a line.
func (b *bench) refusals(events int) (lines []audit.Entry, suppressed []audit.Event) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("%d suppressed events", events), func() bool {
		b.server.Flush() // repeated, because a busy log does not accept such events
		entries, all := b.readAudit()
		lines = slices.DeleteFunc(entries, func(e audit.Entry) bool { return e.Door != "rpc" || e.Principal != "" })
		suppressed = slices.DeleteFunc(all, func(e audit.Event) bool { return e.Kind != audit.KindSuppressed })
		return len(suppressed) >= events
	})
	return lines, suppressed
}

// TestSuppressed checks that unauthenticated requests have a limited number of audit lines and one
// event that counts the rest, with the times of the first and the last. They take no line from
// authenticated callers.
func TestSuppressed(t *testing.T) {
	b := newLimitedBench(t, limit.LogLines{PerSource: 3, PerSourcePerMinute: 2, Total: 1000, TotalPerMinute: 1000})
	guess := func(n int) {
		t.Helper()
		for range n {
			a := b.do(credential{b.root.AccessKeyId, "wrong"}, "ListKeys")
			if a.Status != 400 || a.Code != "SignatureDoesNotMatch" {
				t.Fatalf("wrong secret: %d %s, want 400 SignatureDoesNotMatch", a.Status, a.Code)
			}
		}
	}
	guess(10)
	for range 20 {
		b.want(b.do(b.root, "ListKeys"), 200, "")
		b.want(b.do(b.root, "Nonsense"), 404, "InvalidApi.NotFound")
	}
	lines, suppressed := b.refusals(1)
	if len(lines) != 3 || len(suppressed) != 1 || suppressed[0].Suppressed != 7 ||
		suppressed[0].Source != "127.0.0.1" || suppressed[0].Code != "" || !suppressed[0].Time.Equal(b.clock.Now()) ||
		!suppressed[0].First.Equal(b.clock.Now()) || !suppressed[0].Last.Equal(b.clock.Now()) {
		t.Errorf("10 refusals: %d lines and %+v, want 3 lines and an event that counts 7", len(lines), suppressed)
	}
	if lines, suppressed = b.refusals(1); len(lines) != 3 || len(suppressed) != 1 {
		t.Errorf("after another Flush: %d lines and %+v, want 3 lines and one event", len(lines), suppressed)
	}
	b.clock.move(time.Minute) // permits two more lines
	guess(5)
	if lines, suppressed = b.refusals(2); len(lines) != 5 || len(suppressed) != 2 || suppressed[1].Suppressed != 3 {
		t.Errorf("5 refusals a minute later: %d lines and %+v, want 5 lines and an event that counts 3",
			len(lines), suppressed)
	}
}

// TestSourcesAreSeparate checks that sources have separate limits, that all the addresses of an
// IPv6 network are one source, and that there is a limit for all sources together.
func TestSourcesAreSeparate(t *testing.T) {
	b := newLimitedBench(t, limit.LogLines{PerSource: 2, Total: 9})
	for _, address := range []string{
		"10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "[::ffff:10.0.0.1]:4", // 2 lines
		"10.0.0.2:1",                                            // 1 line
		"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", // 2 lines
		"[2001:db8:0:1::1]:1",                    // 1 line
		"10.0.0.3:1", "10.0.0.4:1", "10.0.0.5:1", // 3 lines, which makes 9
		"10.0.0.6:1", "10.0.0.2:9",
	} {
		b.sendFrom(address, "Action=ListKeys")
	}
	lines, suppressed := b.refusals(1)
	got := make(map[string]int)
	for _, e := range lines {
		got[e.Source]++
	}
	want := map[string]int{
		"10.0.0.1": 2, "10.0.0.2": 1, "2001:db8::1": 1, "2001:db8::2": 1, "2001:db8:0:1::1": 1,
		"10.0.0.3": 1, "10.0.0.4": 1, "10.0.0.5": 1,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("lines by source: %v, want %v", got, want)
	}
	if len(suppressed) != 1 || suppressed[0].Suppressed != 5 || suppressed[0].Source != "10.0.0.2" {
		t.Errorf("suppressed events: %+v, want one that counts 5, from 10.0.0.2", suppressed)
	}
	// An authenticated request succeeds from a source that has reached its limit.
	a := b.sendFrom("10.0.0.1:9", b.sign(b.root, "GET", "ListKeys", nil).Encode())
	b.want(a, 200, "")
}

// TestManySources checks that the gateway distinguishes a limited number of sources. The others
// share one limit until there is room again.
func TestManySources(t *testing.T) {
	t.Parallel()
	const surplus = 50
	b := newLimitedBench(t, limit.LogLines{PerSource: 1, PerSourcePerMinute: 1, Total: 1e6})
	for i := range limit.MaxSources + surplus {
		b.sendFrom(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255), "Action=ListKeys")
	}
	if n := b.server.Sources(); n != limit.MaxSources+1 {
		t.Errorf("%d sources, want %d and one for all others", n, limit.MaxSources)
	}
	lines, suppressed := b.refusals(1)
	counted := 0
	for _, e := range suppressed {
		counted += e.Suppressed
	}
	// The events also count refusals whose lines would have had to wait for the disk.
	if counted < surplus-1 || len(lines)+counted != limit.MaxSources+surplus {
		t.Errorf("%d refusals with a line and %d counted ones, want %d in total and %d or more counted",
			len(lines), counted, limit.MaxSources+surplus, surplus-1)
	}
	b.clock.move(time.Minute)
	b.sendFrom("11.0.0.1:1", "Action=ListKeys")
	if n := b.server.Sources(); n != 1 {
		t.Errorf("%d sources after a minute, want 1: the gateway must forget those with all their lines left", n)
	}
}

// TestReplaysAreStrangers checks that the lines of replays are limited like those of
// unauthenticated requests, although their signatures are valid. The original request has its line.
func TestReplaysAreStrangers(t *testing.T) {
	b := newLimitedBench(t, limit.LogLines{PerSource: 3})
	v := b.sign(b.root, "GET", "AsymmetricSign", params(b.signParams()...))
	b.want(b.send("GET", "/?"+v.Encode(), nil), 200, "")
	for range 10 {
		a := b.send("GET", "/?"+v.Encode(), nil)
		if a.Status != 400 || a.Code != "SignatureNonceUsed" || a.Body["Value"] != nil {
			t.Fatalf("replay: %d %v, want 400 SignatureNonceUsed", a.Status, a.Body)
		}
	}
	lines, suppressed := b.refusals(1)
	if len(lines) != 3 || lines[0].Code != "SignatureNonceUsed" || lines[0].AccessKeyId != b.root.AccessKeyId {
		t.Errorf("lines %+v, want 3 with SignatureNonceUsed", lines)
	}
	if len(suppressed) != 1 || suppressed[0].Suppressed != 7 {
		t.Errorf("suppressed events: %+v, want one that counts 7", suppressed)
	}
}

// TestStrangersWaitForNothing checks that unauthenticated requests get their usual answers at once
// while the token hangs and the audit log cannot be written. The answers reveal neither.
func TestStrangersWaitForNothing(t *testing.T) { synctest.Test(t, testStrangersWaitForNothing) }

func testStrangersWaitForNothing(t *testing.T) {
	b, _, _ := plainBench(t, 1)
	b.root = b.newUser("root", "")
	version := b.everyRecord()[0]
	b.key = testKey{version.KeyId, version.KeyVersionId}
	send := func(method, path string) answer {
		w := httptest.NewRecorder()
		b.server.Handler(b.listener).ServeHTTP(w, httptest.NewRequest(method, "https://kms"+path, nil))
		return readAnswer(t, w.Result())
	}
	inactive := b.newUser("off", "")
	b.local("UpdateAccessKey", nil, "AccessKeyId", inactive.AccessKeyId, "Status", "Inactive")
	used := b.sign(b.root, "GET", "ListKeys", nil).Encode()
	b.want(send("GET", "/?"+used), 200, "")
	old := b.clock.Now().Add(-15*time.Minute - time.Second).Format("2006-01-02T15:04:05Z")
	sign := func(c credential, pairs ...string) string {
		return "/?" + b.sign(c, "GET", "AsymmetricSign", params(b.signParams(pairs...)...)).Encode()
	}
	wrong := credential{b.root.AccessKeyId, "wrong"}
	requests := func() []string {
		return []string{
			"GET /nowhere 404 InvalidApi.NotFound",
			"DELETE / 403 UnsupportedHTTPMethod",
			"GET /?Action=" + strings.Repeat("a", gateway.MaxBody) + " 413 InvalidParameter",
			"GET /?Action=a&Action=b 400 ParseRequestParameterException",
			"GET /?Action=AsymmetricSign 400 IncompleteSignature",
			"GET " + sign(wrong, "SignatureMethod", "HMAC-MD5") + " 400 InvalidSignatureMethod",
			"GET " + sign(wrong, "SecurityToken", "t") + " 400 InvalidSecurityToken.Malformed",
			"GET " + sign(b.root, "Timestamp", "now") + " 400 InvalidTimeStamp.Format",
			"GET " + sign(b.root, "Timestamp", old) + " 400 InvalidTimeStamp.Expired",
			"GET " + sign(credential{"KMSGNONE", "x"}) + " 404 InvalidAccessKeyId.NotFound",
			"GET " + sign(inactive) + " 400 InvalidAccessKeyId.Inactive",
			"GET " + sign(wrong) + " 400 SignatureDoesNotMatch",
			"GET " + sign(wrong, "DryRun", "true") + " 400 SignatureDoesNotMatch",
			"GET /?" + used + " 400 SignatureNonceUsed",
		}
	}
	path := filepath.Join(b.dir, "audit.log")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	b.backend.Fail(hsmtest.ErrHang)
	for _, failing := range []bool{false, true} { // before and after the log reports its failure
		if failing {
			if a := send("GET", "/?"+b.sign(b.root, "GET", "ListKeys", nil).Encode()); a.Status != 503 {
				t.Fatalf("authenticated request without a log: status %d, want 503", a.Status)
			}
		}
		if failing && b.log.Err() == nil {
			t.Fatal("the log reports no failure, want one")
		}
		began := time.Now()
		for _, request := range requests() {
			f := strings.Fields(request)
			if a := send(f[0], f[1]); fmt.Sprint(a.Status) != f[2] || a.Code != f[3] {
				t.Errorf("%.60s: %d %s, want %s %s", request, a.Status, a.Code, f[2], f[3])
			}
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("%d refusals waited for %v, want for nothing", len(requests()), waited)
		}
	}
	b.backend.Fail(nil)
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	send("GET", "/?"+b.sign(b.root, "GET", "ListKeys", nil).Encode()) // still refused, but its line shows the gateway that it can write the log
	b.want(send("GET", sign(b.root)), 200, "")
	if _, suppressed := b.refusals(1); suppressed[0].Suppressed < len(requests()) {
		t.Errorf("suppressed refusals: %d, want %d or more", suppressed[0].Suppressed, len(requests()))
	}
}
