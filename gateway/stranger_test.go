package gateway_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
)

// signHeader returns a request with a form, signed with ACS3-HMAC-SHA256. It is a second
// implementation, written from the documentation. It calls change after it has signed the headers.
func (b *bench) signHeader(c credential, action, form string, change ...func(h http.Header)) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), "POST", b.http.URL+"/", strings.NewReader(form))
	if err != nil {
		b.t.Fatal(err)
	}
	bodyHash := sha256.Sum256([]byte(form))
	signed := map[string]string{
		"content-type":          "application/x-www-form-urlencoded",
		"x-acs-action":          action,
		"x-acs-content-sha256":  hex.EncodeToString(bodyHash[:]),
		"x-acs-date":            b.clock.Now().Format("2006-01-02T15:04:05Z"),
		"x-acs-signature-nonce": uuid.NewString(),
		"x-acs-version":         "2016-01-20",
	}
	names := slices.Sorted(maps.Keys(signed))
	canonical := "POST\n/\n\n"
	for _, name := range names {
		canonical += name + ":" + signed[name] + "\n"
		r.Header.Set(name, signed[name])
	}
	canonical += "\n" + strings.Join(names, ";") + "\n" + signed["x-acs-content-sha256"]
	hash := sha256.Sum256([]byte(canonical))
	mac := hmac.New(sha256.New, []byte(c.AccessKeySecret))
	mac.Write([]byte("ACS3-HMAC-SHA256\n" + hex.EncodeToString(hash[:])))
	r.Header.Set("Authorization", fmt.Sprintf("ACS3-HMAC-SHA256 Credential=%s,SignedHeaders=%s,Signature=%x",
		c.AccessKeyId, strings.Join(names, ";"), mac.Sum(nil)))
	for _, f := range change {
		f(r.Header)
	}
	return r
}

// answer sends the rest of a request of the RPC API and returns the answer.
func (s *slowRequest) answer() answer {
	s.b.t.Helper()
	return readAnswer(s.b.t, s.response())
}

// TestRefusedUnread checks that the gateway refuses a caller that it does not know, and a late
// request, before the client has sent any of the body.
func TestRefusedUnread(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	inactive := b.newUser("off", "")
	b.local("UpdateAccessKey", nil, "AccessKeyId", inactive.AccessKeyId, "Status", "Inactive")
	unknown := credential{"KMSGNONE", "x"}
	form := "Padding=" + strings.Repeat("a", 200_000)
	header := func(c credential) http.Header { return b.signHeader(c, "ListKeys", form).Header }
	late := header(b.root)
	late.Set("x-acs-date", "2026-11-21T20:41:36Z")
	query := "/?" + b.sign(unknown, "POST", "DescribeKey", nil).Encode()
	content := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	for name, tc := range map[string]struct {
		target      string
		header      http.Header
		accessKeyId string
		status      int
		code        string
	}{
		"unknown":               {"/", header(unknown), unknown.AccessKeyId, 404, "InvalidAccessKeyId.NotFound"},
		"inactive":              {"/", header(inactive), inactive.AccessKeyId, 400, "InvalidAccessKeyId.Inactive"},
		"late":                  {"/", late, b.root.AccessKeyId, 400, "InvalidTimeStamp.Expired"},
		"unknown, in the query": {query, content, unknown.AccessKeyId, 404, "InvalidAccessKeyId.NotFound"},
	} {
		lines := len(b.auditLines())
		s := b.startSlow(tc.target, tc.header, []byte(form), len(form))
		b.eventually("the audit line of "+name, func() bool { return len(b.auditLines()) > lines })
		a := b.want(s.answer(), tc.status, tc.code)
		if e, _ := b.auditLine(a.RequestId); e.AccessKeyId != tc.accessKeyId || e.Action == "" || e.Protocol == "" {
			t.Errorf("%s: got audit line %+v, want the access key %s, an action and a protocol", name, e, tc.accessKeyId)
		}
	}
}

// TestRequestBytes checks the limit on the bytes of large requests from one network, for callers who
// are not authenticated yet. Small requests still have room, and once a caller from the network has
// authenticated, large ones do, too. Clients that send slowly delay no other.
func TestRequestBytes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const size, open = 250_000, 16 // 4 MiB have room for 16
	form := "Padding=" + strings.Repeat("a", size-len("Padding="))
	large := func() *http.Request { return b.signHeader(b.root, "ListKeys", form) }
	awaitBytes := func(n int) {
		t.Helper()
		b.eventually(fmt.Sprintf("%d requests to be read", n), func() bool {
			return b.metric("kmsgate_rpc_stranger_bytes") == fmt.Sprint(float64(n*size))
		})
	}
	var slow []*slowRequest
	for range open {
		slow = append(slow, b.startSlow("/", large().Header, []byte(form), 1))
	}
	awaitBytes(open)
	a := b.want(b.roundTrip(large()), 503, "ServiceUnavailableTemporary")
	if a.Header.Get("Retry-After") == "" {
		t.Error("got 503 without Retry-After")
	}
	if got := b.metric(`kmsgate_early_refusals_total{reason="bytes"}`); got != "1" {
		t.Errorf("kmsgate_early_refusals_total: got %s, want 1", got)
	}
	b.want(b.roundTrip(b.signHeader(b.root, "ListKeys", "Padding=a")), 200, "")
	b.want(b.roundTrip(large()), 200, "")
	for i, s := range slow {
		if i%2 == 0 {
			b.want(s.answer(), 200, "")
		} else {
			s.conn.Close()
		}
	}
	awaitBytes(0)
	b.eventually("all bytes to be released", func() bool { return b.metric("kmsgate_rpc_request_bytes") == "0" })
}

// TestChunkedBytes checks that only the bytes that have arrived count for a body of unknown length, and that a body
// that is too large is refused.
func TestChunkedBytes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	chunked := func(form string) *http.Request {
		r := b.signHeader(b.root, "ListKeys", form)
		r.ContentLength = -1
		return r
	}
	var slow []*io.PipeWriter
	answers := make(chan answer)
	for range 100 {
		form := "Padding=" + strings.Repeat("a", 1000)
		r := chunked(form)
		body, rest := io.Pipe()
		r.Body = body
		go func() { answers <- b.roundTrip(r) }()
		if _, err := io.WriteString(rest, form[:999]); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, rest)
	}
	b.want(b.roundTrip(chunked("Padding="+strings.Repeat("a", 200_000))), 200, "")
	b.want(b.roundTrip(chunked("Padding="+strings.Repeat("a", 300_000))), 413, "InvalidParameter")
	for _, rest := range slow {
		if _, err := io.WriteString(rest, "aaaaaaaaa"); err != nil {
			t.Fatal(err)
		}
		rest.Close()
		b.want(<-answers, 200, "")
	}
	b.eventually("all bytes to be released", func() bool { return b.metric("kmsgate_rpc_request_bytes") == "0" })
}

// TestGateFull checks that, while strangers take all slots before authentication, callers from a
// network that is known get answers, and others a temporary error.
func TestGateFull(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	query := func() string { return b.sign(b.root, "GET", "ListKeys", nil).Encode() }
	b.want(b.sendFrom("10.0.0.1:1", query()), 200, "")
	b.want(b.sendFrom("10.0.0.2:1", b.sign(credential{b.root.AccessKeyId, "wrong"}, "GET", "ListKeys", nil).Encode()),
		400, "SignatureDoesNotMatch")
	b.server.FillGate()
	b.want(b.sendFrom("10.0.0.1:2", query()), 200, "")
	refused := func(a answer) {
		t.Helper()
		b.want(a, 503, "ServiceUnavailableTemporary")
		if a.Header.Get("Retry-After") == "" {
			t.Error("got 503 without Retry-After")
		}
	}
	refused(b.sendFrom("10.0.0.2:2", query()))
	refused(c.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}, nil))
	b.want(b.sendFrom("10.0.0.2:3", b.sign(credential{"KMSGNONE", "x"}, "GET", "ListKeys", nil).Encode()),
		404, "InvalidAccessKeyId.NotFound") // needs no slot
	if got := b.metric(`kmsgate_early_refusals_total{reason="slots"}`); got != "2" {
		t.Errorf("kmsgate_early_refusals_total: got %s, want 2", got)
	}
}

// TestParameterCount sends requests with as many parameters as are allowed, and with one more, in the
// query, in the form, and in both.
func TestParameterCount(t *testing.T) {
	b := newBench(t)
	for name, inQuery := range map[string]int{"form": 0, "query": 1000, "both": 250} {
		for surplus, want := range []string{"", "ParseRequestParameterException"} {
			v := b.sign(b.root, "POST", "ListKeys", nil)
			more := make(map[string]string)
			for i := range acs.MaxParameters - len(v) + surplus {
				more[fmt.Sprint("P.", i)] = "x"
			}
			v = b.sign(b.root, "POST", "ListKeys", more)
			query := make(url.Values)
			for name, values := range v {
				if len(query) < inQuery {
					query[name] = values
					delete(v, name)
				}
			}
			a := b.send("POST", "/?"+query.Encode(), strings.NewReader(v.Encode()))
			if b.want(a, a.Status, want); (a.Status == 200) != (want == "") {
				t.Errorf("%s, %d too many: got status %d", name, surplus, a.Status)
			}
		}
	}
}

// TestEscapes sends as many characters that signatures escape as a request may have, and one more.
func TestEscapes(t *testing.T) {
	b := newBench(t)
	for n, want := range map[int]string{43_000: "", 45_000: "ParseRequestParameterException"} {
		form := b.sign(b.root, "POST", "ListKeys", params("Note", strings.Repeat("*", n))).Encode()
		a := b.send("POST", "/", strings.NewReader(strings.ReplaceAll(form, "%2A", "*")))
		if b.want(a, a.Status, want); (a.Status == 200) != (want == "") {
			t.Errorf("%d escapes: got status %d", n, a.Status)
		}
		if want != "" { // a client that escapes them may send them
			b.want(b.send("POST", "/", strings.NewReader(form)), 200, "")
		}
	}
}

// A strangerRequest is a request of a caller who does not authenticate.
type strangerRequest struct {
	name   string
	query  string
	header http.Header
	form   string
	code   string
}

func (s strangerRequest) request() *http.Request {
	r := httptest.NewRequest("POST", "https://x/?"+s.query, strings.NewReader(s.form))
	maps.Copy(r.Header, s.header)
	return r
}

// strangerRequests returns requests of 120 KB, each with the code of its answer.
func (b *bench) strangerRequests() (all []strangerRequest) {
	const size = 120 << 10
	long := make(map[string]string) // few parameters, with long values
	for i := range 400 {
		long[fmt.Sprintf("P.%d", i)] = strings.Repeat("a", size/400-6)
	}
	values := make(url.Values)
	for name, value := range long {
		values.Set(name, value)
	}
	parameters := strings.Repeat("&a=b", size/4)
	escapes := "&E=" + strings.Repeat("*", size)
	content := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	for name, c := range map[string]struct {
		credential
		code string
	}{
		"unknown": {credential{"KMSGNONE", "x"}, "InvalidAccessKeyId.NotFound"},
		"wrong":   {credential{b.root.AccessKeyId, "wrong"}, "SignatureDoesNotMatch"},
	} {
		rpc, short := b.sign(c.credential, "POST", "ListKeys", long).Encode(), b.sign(c.credential, "POST", "ListKeys", nil).Encode()
		header := b.signHeader(c.credential, "ListKeys", values.Encode()).Header
		tooMany := c.code
		if name == "wrong" {
			tooMany = "ParseRequestParameterException"
		}
		all = append(all,
			strangerRequest{name: "RPC-query-" + name, query: rpc, code: c.code},
			strangerRequest{name: "RPC-form-" + name, header: content, form: rpc, code: c.code},
			strangerRequest{name: "RPC-escapes-" + name, header: content, form: short + escapes, code: tooMany},
			strangerRequest{name: "RPC-parameters-" + name, header: content, form: short + parameters, code: tooMany},
			strangerRequest{name: "ACS3-query-" + name, header: header, query: values.Encode(), code: c.code},
			strangerRequest{name: "ACS3-escapes-" + name, header: header, query: escapes[1:], code: tooMany},
			strangerRequest{name: "ACS3-form-" + name, header: header, form: values.Encode(), code: c.code},
			strangerRequest{name: "ACS3-parameters-" + name, header: header, form: "a=b" + parameters, code: tooMany})
	}
	slices.SortFunc(all, func(a, b strangerRequest) int { return strings.Compare(a.name, b.name) })
	return all
}

// TestStrangerMemory checks that a large request of a stranger makes the gateway allocate at most one
// and a half times its bytes, and what a small request takes.
func TestStrangerMemory(t *testing.T) { // not parallel, because it measures the whole process
	b := newBench(t)
	handler := b.server.Handler(gateway.Listener{})
	for _, s := range b.strangerRequests() {
		least := uint64(1 << 62)
		for range 5 { // the gateway may do something else at the same time
			r, w := s.request(), httptest.NewRecorder()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			handler.ServeHTTP(w, r)
			runtime.ReadMemStats(&after)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
			if a := readAnswer(t, w.Result()); a.Code != s.code {
				t.Fatalf("%s: got %d %s, want %s", s.name, a.Status, a.Code, s.code)
			}
		}
		size := len(s.query) + len(s.form)
		if limit := uint64(size*3/2 + 24<<10); least > limit {
			t.Errorf("%s: %d bytes allocated for a request of %d, want at most %d", s.name, least, size, limit)
		}
	}
}

// TestEncodedTwice checks that nothing of a request is lost or read twice when the access key is looked
// for before the parameters are split.
func TestEncodedTwice(t *testing.T) {
	b := newBench(t)
	sent := b.sign(b.root, "POST", "ListKeys", params("Note", "AccessKeyId=KMSGNONE&AccessKeyId=KMSGNONE"))
	b.want(b.send("POST", "/?"+sent.Encode(), nil), 200, "")
	// The escaped name is not found at first, and is the access key nevertheless.
	sent = b.sign(b.root, "POST", "ListKeys", nil)
	b.want(b.send("POST", "/?"+strings.Replace(sent.Encode(), "AccessKeyId", "%41ccessKeyId", 1), nil), 200, "")
	sent = b.sign(credential{"KMSGNONE", "x"}, "POST", "ListKeys", nil)
	escaped := strings.Replace(sent.Encode(), "AccessKeyId", "%41ccessKeyId", 1)
	b.want(b.send("POST", "/?"+escaped, nil), 404, "InvalidAccessKeyId.NotFound")
	// The first of two access keys is not taken for the only one.
	sent = b.sign(b.root, "POST", "ListKeys", nil)
	b.want(b.send("POST", "/?"+sent.Encode()+"&AccessKeyId=KMSGNONE", nil), 400, "ParseRequestParameterException")
	b.want(b.send("POST", "/?"+sent.Encode(), strings.NewReader("AccessKeyId=KMSGNONE")), 400, "ParseRequestParameterException")
}

// TestStrangerStaysUnread checks that a client that waits for permission to send its body gets the
// refusal instead.
func TestStrangerStaysUnread(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	form := "Padding=" + strings.Repeat("a", 1000)
	r := b.signHeader(credential{"KMSGNONE", "x"}, "ListKeys", form, withHeader("Expect", "100-continue"))
	s := b.startSlow("/", r.Header, []byte(form), len(form))
	s.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	s.rest = nil
	if a := s.answer(); a.Status != 404 || a.Code != "InvalidAccessKeyId.NotFound" {
		t.Errorf("got %d %s, want 404 InvalidAccessKeyId.NotFound without the body", a.Status, a.Code)
	}
}

// cpuTime returns the processor time that this thread has used.
func cpuTime(b *testing.B) time.Duration {
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Nano())
}

// BenchmarkStranger measures the processor time of strangers' requests, without network and token, as a
// share of the limit: twice the time of a small valid request, and 2 µs for each KB received. It does not
// count all of the valid request's time: other threads write the audit log.
func BenchmarkStranger(b *testing.B) {
	g := newBench(b)
	handler := g.server.Handler(gateway.Listener{})
	// measure returns the time of one request. Making the request is the client's work.
	measure := func(b *testing.B, request func() *http.Request, want func(w *httptest.ResponseRecorder) bool) time.Duration {
		b.ReportAllocs()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var total time.Duration
		for b.Loop() {
			b.StopTimer()
			r, w := request(), httptest.NewRecorder()
			b.StartTimer()
			before := cpuTime(b)
			handler.ServeHTTP(w, r)
			total += cpuTime(b) - before
			b.StopTimer()
			if !want(w) {
				b.Fatalf("got %d %s", w.Code, w.Body)
			}
			b.StartTimer()
		}
		each := total / time.Duration(b.N)
		b.ReportMetric(float64(each.Nanoseconds())/1e3, "cpu-µs/op")
		return each
	}
	var valid time.Duration
	b.Run("small-valid", func(b *testing.B) {
		valid = measure(b, func() *http.Request {
			return httptest.NewRequest("GET", "https://x/?"+g.sign(g.root, "GET", "AsymmetricSign", params(g.signParams()...)).Encode(), nil)
		}, func(w *httptest.ResponseRecorder) bool { return w.Code == http.StatusOK })
	})
	for _, s := range g.strangerRequests() {
		b.Run(s.name, func(b *testing.B) {
			each := measure(b, s.request, func(w *httptest.ResponseRecorder) bool { return strings.Contains(w.Body.String(), s.code) })
			limit := 2*valid + time.Duration(len(s.query)+len(s.form))*2*time.Microsecond/1000
			if valid > 0 { // it was measured
				b.ReportMetric(float64(each)/float64(limit), "of-limit")
			}
		})
	}
}
