package gateway_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

// budget gives a bench whose strangers have little.
func budget(t *testing.T, budget limit.LogLines) *bench {
	t.Helper()
	return newBench(t, func(c *gateway.Config) { c.LogLines = budget })
}

// from sends a request that comes from an address, past the network.
func (b *bench) from(address, query string) answer {
	b.t.Helper()
	r := httptest.NewRequest("GET", "/?"+query, nil)
	r.RemoteAddr, r.TLS = address, new(tls.ConnectionState)
	w := httptest.NewRecorder()
	b.http.Config.Handler.ServeHTTP(w, r)
	return readAnswer(b.t, w.Result())
}

// refusals settles, waits for so many lines that say how many refusals have
// none, and gives those that have one, and the lines that count.
func (b *bench) refusals(counted int) (lines []audit.Entry, suppressed []audit.Event) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("%d lines that count", counted), func() bool {
		b.server.Flush() // again, for a log that is busy takes no such line
		entries, events := b.readAudit()
		lines = slices.DeleteFunc(entries, func(e audit.Entry) bool { return e.Door != "rpc" || e.Principal != "" })
		suppressed = slices.DeleteFunc(events, func(e audit.Event) bool { return e.Kind != audit.KindSuppressed })
		return len(suppressed) >= counted
	})
	return lines, suppressed
}

// TestSuppressed: strangers have so many lines, and one line for the rest; who
// is known has every line.
func TestSuppressed(t *testing.T) {
	b := budget(t, limit.LogLines{PerSource: 3, PerSourcePerMinute: 2, Total: 1000, TotalPerMinute: 1000})
	guess := func(n int) {
		t.Helper()
		for range n {
			if a := b.do(credential{b.root.AccessKeyId, "wrong"}, "ListKeys"); a.Status != 400 || a.Code != "SignatureDoesNotMatch" {
				t.Fatalf("%d %s", a.Status, a.Code)
			}
		}
	}
	guess(10)
	for range 20 {
		b.want(b.do(b.root, "ListKeys"), 200, "")
		b.want(b.do(b.root, "Nonsense"), 404, "InvalidApi.NotFound")
	}
	lines, suppressed := b.refusals(1)
	if len(lines) != 3 || len(suppressed) != 1 || suppressed[0].Suppressed != 7 || suppressed[0].Source != "127.0.0.1" || !suppressed[0].Time.Equal(b.clock.Now()) {
		t.Errorf("10 refusals have %d lines, and there is %+v, want 3 and 7", len(lines), suppressed)
	}
	if lines, suppressed = b.refusals(1); len(lines) != 3 || len(suppressed) != 1 {
		t.Errorf("they are counted again: %+v", suppressed)
	}
	b.clock.move(time.Minute) // the budget grows by two
	guess(5)
	if lines, suppressed = b.refusals(2); len(lines) != 5 || len(suppressed) != 2 || suppressed[1].Suppressed != 3 {
		t.Errorf("after a minute and 5 more there are %d lines and %+v, want 5 and 3", len(lines), suppressed)
	}
}

// TestSourcesAreSeparate: one source does not use up another's budget; all the
// addresses of an IPv6 network are one; all together have a budget, too.
func TestSourcesAreSeparate(t *testing.T) {
	b := budget(t, limit.LogLines{PerSource: 2, Total: 9})
	for _, address := range []string{
		"10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "[::ffff:10.0.0.1]:4", // 2 of them
		"10.0.0.2:1",                                            // 1
		"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", // 2
		"[2001:db8:0:1::1]:1",                    // 1
		"10.0.0.3:1", "10.0.0.4:1", "10.0.0.5:1", // 3: that is 9
		"10.0.0.6:1", "10.0.0.2:9",
	} {
		b.from(address, "Action=ListKeys")
	}
	lines, suppressed := b.refusals(1)
	of := make(map[string]int)
	for _, e := range lines {
		of[e.Source]++
	}
	want := map[string]int{"10.0.0.1": 2, "10.0.0.2": 1, "2001:db8::1": 1, "2001:db8::2": 1, "2001:db8:0:1::1": 1, "10.0.0.3": 1, "10.0.0.4": 1, "10.0.0.5": 1}
	if fmt.Sprint(of) != fmt.Sprint(want) || len(suppressed) != 1 || suppressed[0].Suppressed != 5 || suppressed[0].Source != "10.0.0.2" {
		t.Errorf("lines by source: %v, want %v; counted: %+v, want 5", of, want, suppressed)
	}
	a := b.from("10.0.0.1:9", b.sign(b.root, "GET", "ListKeys", nil).Encode()) // known, from a source that has nothing left
	b.want(a, 200, "")
}

// TestManySources: of however many sources so many are told apart; the rest
// share one budget, until there is room again.
func TestManySources(t *testing.T) {
	t.Parallel()
	const more = 50
	b := budget(t, limit.LogLines{PerSource: 1, PerSourcePerMinute: 1, Total: 1e6})
	for i := range limit.MaxSources + more {
		b.from(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255), "Action=ListKeys")
	}
	if n := b.server.Sources(); n != limit.MaxSources+1 {
		t.Errorf("%d sources are told apart, want %d and the one for the rest", n, limit.MaxSources)
	}
	lines, suppressed := b.refusals(1)
	counted := 0
	for _, e := range suppressed {
		counted += e.Suppressed
	}
	// Lines that would have to wait for the disk are counted, too.
	if counted < more-1 || len(lines)+counted != limit.MaxSources+more {
		t.Errorf("%d refusals have a line, %d are counted, of %d", len(lines), counted, limit.MaxSources+more)
	}
	b.clock.move(time.Minute)
	b.from("11.0.0.1:1", "Action=ListKeys")
	if n := b.server.Sources(); n != 1 {
		t.Errorf("%d sources are remembered whose budgets are whole", n)
	}
}

// TestReplaysAreStrangers: a request that was overheard has lines as strangers
// have, however well it is signed; its first use has its own.
func TestReplaysAreStrangers(t *testing.T) {
	b := budget(t, limit.LogLines{PerSource: 3})
	v := b.sign(b.root, "GET", "AsymmetricSign", params(b.signParams()...))
	b.want(b.send("GET", "/?"+v.Encode(), nil), 200, "")
	for range 10 {
		if a := b.send("GET", "/?"+v.Encode(), nil); a.Status != 400 || a.Code != "SignatureNonceUsed" || a.Body["Value"] != nil {
			t.Fatalf("replayed: %d %v", a.Status, a.Body)
		}
	}
	lines, suppressed := b.refusals(1)
	if len(lines) != 3 || lines[0].Code != "SignatureNonceUsed" || lines[0].AccessKeyId != b.root.AccessKeyId || len(suppressed) != 1 || suppressed[0].Suppressed != 7 {
		t.Errorf("%d lines and %+v, want 3 and 7", len(lines), suppressed)
	}
}

// TestStrangersWaitForNothing: whoever cannot say who it is is answered at once,
// and as always, while the token hangs and the audit log is gone, and learns
// nothing of either.
func TestStrangersWaitForNothing(t *testing.T) {
	b := newBench(t)
	off := b.newUser("off", "")
	b.local("UpdateAccessKey", nil, "AccessKeyId", off.AccessKeyId, "Status", "Inactive")
	used := b.sign(b.root, "GET", "ListKeys", nil).Encode()
	b.want(b.send("GET", "/?"+used, nil), 200, "")
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
			"GET " + sign(off) + " 400 InvalidAccessKeyId.Inactive",
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
	for _, failing := range []bool{false, true} { // before the log knows, and after
		if failing {
			if a := b.do(b.root, "ListKeys"); a.Status != 503 {
				t.Fatalf("without the log the known are answered %d", a.Status)
			}
		}
		if failing && b.log.Err() == nil {
			t.Fatal("the log is not failing")
		}
		began := time.Now()
		for _, request := range requests() {
			f := strings.Fields(request)
			r, err := http.NewRequestWithContext(t.Context(), f[0], b.http.URL+f[1], nil)
			if err != nil {
				t.Fatal(err)
			}
			if a := b.roundTrip(r); fmt.Sprint(a.Status) != f[2] || a.Code != f[3] {
				t.Errorf("%.60s: %d %s, want %s %s", request, a.Status, a.Code, f[2], f[3])
			}
		}
		// One operation of the token that hangs would take 2.5 s.
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%d refusals took %v", len(requests()), took)
		}
	}
	b.backend.Fail(nil)
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	b.do(b.root, "ListKeys") // is refused still, and has its line: so the log can be written
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
	if _, suppressed := b.refusals(1); suppressed[0].Suppressed < len(requests()) {
		t.Errorf("%d refusals without a line are counted, at least %d had none", suppressed[0].Suppressed, len(requests()))
	}
}
