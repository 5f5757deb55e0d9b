package gateway_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
)

// A repeatingBackend makes one signature, and returns it again for every later request. So its own
// allocations do not count.
type repeatingBackend struct {
	hsm.Backend
	signature []byte
}

func (b *repeatingBackend) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) (_ []byte, err error) {
	if b.signature == nil {
		b.signature, err = b.Backend.Sign(ctx, k, alg, digest)
	}
	return b.signature, err
}

// An answerWriter keeps an answer. Like that of a connection, it has deadlines and can be flushed.
type answerWriter struct {
	header http.Header
	status int
	body   []byte
}

func (w *answerWriter) Header() http.Header              { return w.header }
func (w *answerWriter) WriteHeader(status int)           { w.status = status }
func (w *answerWriter) Flush()                           {}
func (w *answerWriter) SetWriteDeadline(time.Time) error { return nil }

func (w *answerWriter) Write(p []byte) (int, error) {
	w.body = append(w.body, p...)
	return len(p), nil
}

// signedRequests returns requests to sign one digest with the bench's key, as the official Go SDK sends
// them, each with its own nonce.
func (b *bench) signedRequests(n int) []*http.Request {
	digest := sha256.Sum256([]byte("message"))
	query := url.Values{"Algorithm": {"ECDSA_SHA_256"}, "Digest": {base64.StdEncoding.EncodeToString(digest[:])},
		"KeyId": {b.key.KeyId}, "KeyVersionId": {b.key.KeyVersionId}}.Encode()
	all := make([]*http.Request, n)
	for i := range all {
		ctx, cancel := context.WithCancel(b.t.Context()) // as net/http does for each request
		b.t.Cleanup(cancel)
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://kms.example/?"+query, http.NoBody)
		if err != nil {
			b.t.Fatal(err)
		}
		r.RemoteAddr, r.TLS = "192.0.2.1:4711", new(tls.ConnectionState)
		b.signEmpty(r)
		all[i] = r
	}
	return all
}

// signEmpty signs an AsymmetricSign without a body with ACS3-HMAC-SHA256.
func (b *bench) signEmpty(r *http.Request) {
	for name, value := range map[string]string{"x-acs-action": "AsymmetricSign", "x-acs-version": "2016-01-20",
		"x-acs-date": b.clock.Now().Format(kms.TimeLayout), "x-acs-signature-nonce": uuid.NewString(),
		"x-acs-content-sha256": fmt.Sprintf("%x", sha256.Sum256(nil)), "Accept": "application/json",
		"User-Agent": "AlibabaCloud (linux; amd64) Golang/1.26.8 Core/0.01 TeaDSL/1", "Accept-Encoding": "gzip"} {
		r.Header.Set(name, value)
	}
	const headers = "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version"
	authorize := func(signature []byte) {
		r.Header.Set("Authorization", fmt.Sprintf("ACS3-HMAC-SHA256 Credential=%s,SignedHeaders=%s,Signature=%x",
			b.root.AccessKeyId, headers, signature))
	}
	authorize(make([]byte, sha256.Size))
	claim, err := acs.Parse(r, "")
	if err != nil {
		b.t.Fatal(err)
	}
	mac := hmac.New(sha256.New, []byte(b.root.AccessKeySecret))
	mac.Write([]byte(claim.StringToSign()))
	authorize(mac.Sum(nil))
}

// floorHandler returns a handler that reads the parameters, checks the request's signature with package acs,
// and answers in JSON.
func floorHandler(secret *acs.Secret, answer *kms.AsymmetricSignResponse) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		claim, err := acs.Parse(r, "")
		if err != nil || !claim.VerifySecret(secret) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if digest, err := base64.StdEncoding.DecodeString(claim.Parameters()["Digest"]); err != nil || len(digest) != hsm.DigestSize {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json;charset=utf-8")
		w.WriteHeader(http.StatusOK)
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// newSigner returns a gateway whose backend allocates nothing, its handler, and one that does only what
// every such gateway has to do.
func newSigner(t testing.TB) (b *bench, signs, floor http.Handler) {
	t.Helper()
	b = newBench(t, func(cfg *gateway.Config) { cfg.Backend = &repeatingBackend{Backend: new(hsmtest.Fake)} })
	signs = b.server.Handler(gateway.Listener{})
	answer := new(kms.AsymmetricSignResponse)
	if err := json.Unmarshal(serveSigned(t, signs, b.signedRequests(1)[0]).body, answer); err != nil {
		t.Fatal(err)
	}
	return b, signs, floorHandler(acs.NewSecret(b.root.AccessKeySecret), answer)
}

func serveSigned(t testing.TB, h http.Handler, r *http.Request) *answerWriter {
	w := &answerWriter{header: make(http.Header), body: make([]byte, 0, 512)}
	h.ServeHTTP(w, r)
	if w.status != http.StatusOK || !strings.Contains(string(w.body), `"Value":"M`) {
		t.Fatalf("got %d %s, want a signature", w.status, w.body)
	}
	return w
}

// A cost is what a request allocates.
type cost struct{ allocations, bytes float64 }

// costOf returns the cost of a request: the least of several averages, because other goroutines of this
// process allocate, too.
func (b *bench) costOf(h http.Handler) (least cost) {
	const rounds, perRound = 5, 200
	for range rounds {
		requests := b.signedRequests(perRound)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for _, r := range requests {
			serveSigned(b.t, h, r)
		}
		runtime.ReadMemStats(&after)
		c := cost{float64(after.Mallocs-before.Mallocs) / perRound, float64(after.TotalAlloc-before.TotalAlloc) / perRound}
		if least.allocations == 0 {
			least = c
		}
		least = cost{min(least.allocations, c.allocations), min(least.bytes, c.bytes)}
	}
	return least
}

// A signature may allocate this much beyond the floor. The audit log takes a third of it. How many lines the log
// writes at once makes a difference of two allocations.
const (
	allowedAllocations = 40
	allowedBytes       = 4 << 10

	// The race detector makes sync.Pool drop a quarter of what it gets.
	raceAllocations = 6
	raceBytes       = 1500
)

// TestAllocations compares what a signature with EC_P256 allocates in the handler, without the token's
// part, with what floor allocates. The audit log is real: what it allocates counts.
func TestAllocations(t *testing.T) {
	b, signs, floor := newSigner(t)
	got, least := b.costOf(signs), b.costOf(floor)
	allowed := cost{least.allocations + allowedAllocations, least.bytes + allowedBytes}
	if raceDetector {
		allowed.allocations += raceAllocations
		allowed.bytes += raceBytes
	}
	t.Logf("a signature: %.1f allocations, %.0f bytes; the floor: %.1f, %.0f", got.allocations, got.bytes,
		least.allocations, least.bytes)
	if got.allocations > allowed.allocations || got.bytes > allowed.bytes {
		t.Errorf("got %.1f allocations and %.0f bytes, want at most %.1f and %.0f", got.allocations, got.bytes,
			allowed.allocations, allowed.bytes)
	}
}

// BenchmarkSign measures what TestAllocations compares.
func BenchmarkSign(b *testing.B) {
	bench, signs, floor := newSigner(b)
	for name, h := range map[string]http.Handler{"gateway": signs, "floor": floor} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			requests := bench.signedRequests(b.N)
			b.ResetTimer()
			for _, r := range requests {
				serveSigned(b, h, r)
			}
		})
	}
}
