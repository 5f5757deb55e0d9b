package bench_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/bench"
	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/apiclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
)

const (
	accessKeyId     = "LTAI5tFAKEFAKEFAKEFAKE00"
	accessKeySecret = "FAKEsecretFAKEsecretFAKEsecret"
	keyId           = "alias/a b+c/ä~*"
)

// A server signs with one key.
type server struct {
	t   *testing.T
	key privatekey.Key
	// answer, if not nil, answers instead; it returns false to let the server answer.
	answer func(w http.ResponseWriter, r *http.Request, claim *acs.Claim) bool

	mu     sync.Mutex
	url    string
	nonces map[string]bool
	calls  map[string]int // by action
}

// start starts the server and returns a work at it.
func (s *server) start(operation bench.Operation) *bench.Work {
	s.t.Helper()
	s.nonces, s.calls = make(map[string]bool), make(map[string]int)
	var err error
	if s.key, err = privatekey.New(hsm.EC_P256); err != nil {
		s.t.Fatal(err)
	}
	h := httptest.NewUnstartedServer(s)
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.StartTLS()
	s.t.Cleanup(h.Close)
	s.url = h.URL
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	return s.work(operation, apiclient.Config{Endpoint: h.URL, RootCAs: roots, AccessKeyId: accessKeyId, AccessKeySecret: accessKeySecret})
}

func (s *server) work(operation bench.Operation, cfg apiclient.Config) *bench.Work {
	e, err := bench.NewEndpoint(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return &bench.Work{Endpoint: e, Operation: operation, Key: bench.Key{KeyId: keyId, KeyVersionId: "v-1",
		Algorithm: hsm.ECDSA_SHA_256, Key: hsm.Key{Spec: hsm.EC_P256, Public: s.key.Public()}}}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	claim, err := acs.Parse(r, string(body))
	if err != nil || !claim.VerifySecret(acs.NewSecret(accessKeySecret)) || claim.AccessKeyId != accessKeyId || claim.Version != "2016-01-20" {
		s.t.Errorf("got the claim %+v, %v, want a valid one", claim, err)
		return
	}
	if age := time.Since(claim.Time); age < 0 || age > 15*time.Minute {
		s.t.Errorf("got a request of %v, want one that a gateway accepts", claim.Time)
	}
	s.mu.Lock()
	if s.nonces[claim.Nonce] {
		s.t.Errorf("got the nonce %q twice, want another in each request", claim.Nonce)
	}
	s.nonces[claim.Nonce] = true
	s.calls[claim.Action]++
	s.mu.Unlock()
	if s.answer != nil && s.answer(w, r, claim) {
		return
	}
	s.serve(w, claim)
}

// serve answers as a gateway does.
func (s *server) serve(w http.ResponseWriter, claim *acs.Claim) {
	p := claim.Parameters()
	if p["KeyId"] != keyId || p["KeyVersionId"] != "v-1" {
		s.t.Errorf("got the parameters %q, want those of the key", p)
	}
	digest, _ := base64.StdEncoding.DecodeString(p["Digest"])
	value, _ := base64.StdEncoding.DecodeString(p["Value"])
	switch claim.Action {
	case "AsymmetricSign":
		signature, err := s.key.Sign(hsm.Algorithm(p["Algorithm"]), digest)
		if err != nil {
			s.t.Error(err)
		}
		s.encode(w, kms.AsymmetricSignResponse{Value: signature})
	case "AsymmetricVerify":
		valid, err := hsm.Verify(hsm.Key{Spec: hsm.EC_P256, Public: s.key.Public()}, hsm.ECDSA_SHA_256, digest, value)
		if err != nil {
			s.t.Error(err)
		}
		s.encode(w, kms.AsymmetricVerifyResponse{Value: valid})
	case "GetPublicKey":
		s.encode(w, kms.GetPublicKeyResponse{PublicKey: hsm.PublicKeyPEM(s.key.Public())})
	default:
		s.t.Errorf("got the action %q, want one of a bench", claim.Action)
	}
}

func (s *server) encode(w http.ResponseWriter, answer any) {
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		s.t.Error(err)
	}
}

// call makes the calls of one caller and returns the first error.
func call(t *testing.T, work *bench.Work, n int) error {
	t.Helper()
	c, err := work.Connect(t.Context(), 0)
	if err != nil {
		return err
	}
	defer c.Close()
	for range n {
		if err := c.Call(t.Context()); err != nil {
			return err
		}
	}
	return nil
}

// TestCalls: the server's own code accepts every request, and all answers are right.
func TestCalls(t *testing.T) {
	for operation, want := range map[bench.Operation]map[string]int{
		bench.Sign:      {"AsymmetricSign": 101},
		bench.Verify:    {"AsymmetricSign": 1, "AsymmetricVerify": 101},
		bench.PublicKey: {"GetPublicKey": 101},
	} {
		s := server{t: t}
		work := s.start(operation)
		if err := call(t, work, 100); err != nil {
			t.Fatalf("%s: %v", operation, err)
		}
		if checked, err := work.Check(); err != nil || checked < 16 || checked > 32 {
			t.Errorf("%s: Check: got %d, %v, want 16 to 32 answers", operation, checked, err)
		}
		for action, n := range want {
			if s.calls[action] != n {
				t.Errorf("%s: got the calls %v, want %v", operation, s.calls, want)
			}
		}
	}
}

// TestConcurrentCallers: the callers of one work share nothing.
func TestConcurrentCallers(t *testing.T) {
	s := server{t: t}
	work := s.start(bench.Sign)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			if err := call(t, work, 20); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if checked, err := work.Check(); err != nil || checked != 8*21 {
		t.Errorf("Check: got %d, %v, want all 168 answers", checked, err)
	}
}

// TestWrongAnswers: Check finds answers that are wrong, even if only the later ones are.
func TestWrongAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		operation bench.Operation
		answer    any
	}{
		"the signature of another digest": {bench.Sign, nil},
		"no signature":                    {bench.Sign, kms.AsymmetricSignResponse{}},
		"another type":                    {bench.Sign, map[string]int{"Value": 1}},
		"not verified":                    {bench.Verify, kms.AsymmetricVerifyResponse{}},
		"no public key":                   {bench.PublicKey, kms.GetPublicKeyResponse{PublicKey: "none"}},
	} {
		s := server{t: t}
		work := s.start(tc.operation)
		other, err := s.key.Sign(hsm.ECDSA_SHA_256, make([]byte, hsm.DigestSize))
		if err != nil {
			t.Fatal(err)
		}
		if tc.answer == nil {
			tc.answer = kms.AsymmetricSignResponse{Value: other}
		}
		answered := 0
		s.answer = func(w http.ResponseWriter, _ *http.Request, _ *acs.Claim) bool {
			if answered++; answered < 300 {
				return false
			}
			s.encode(w, tc.answer)
			return true
		}
		if err := call(t, work, 400); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := work.Check(); err == nil || !strings.Contains(err.Error(), "checking the answer") {
			t.Errorf("%s: Check: got %v, want an error", name, err)
		}
	}
}

// TestAnswers: a refusal has its code, and what is no answer of the API is an error. After each, the
// caller continues, over a new connection if it must.
func TestAnswers(t *testing.T) {
	plain := func(status int, body string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(status); _, _ = io.WriteString(w, body) }
	}
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   string // in the error; empty if there is none
		code   string
	}{
		"refused":      {plain(429, `{"Code":"Rejected.Throttling","Message":"m"}`), "m", "Rejected.Throttling"},
		"no API":       {plain(404, "<html>"), "check --endpoint", ""},
		"no JSON":      {plain(200, "<html>"), "check --endpoint", ""},
		"too long":     {plain(200, strings.Repeat("x", 64<<10)), "more than 65535 bytes", ""},
		"disconnected": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, "EOF", ""},
		"cut short": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			plain(200, "{}")(w)
		}, "EOF", ""},
		"the last on its connection": {func(w http.ResponseWriter) { w.Header().Set("Connection", "close"); plain(200, "{}")(w) }, "", ""},
		"in pieces": {func(w http.ResponseWriter) {
			plain(200, "{")(w)
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "}")
		}, "", ""},
	} {
		s := server{t: t}
		work := s.start(bench.Sign)
		c, err := work.Connect(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		s.answer = func(w http.ResponseWriter, _ *http.Request, _ *acs.Claim) bool { tc.answer(w); return true }
		err = c.Call(t.Context())
		var refusal *kms.Error
		switch {
		case tc.want == "" && err != nil, tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		case errors.As(err, &refusal) != (tc.code != "") || tc.code != "" && refusal.Code != tc.code:
			t.Errorf("%s: got the refusal %v, want the code %q", name, refusal, tc.code)
		}
		s.answer = nil
		if err := c.Call(t.Context()); err != nil {
			t.Errorf("%s: the next call: got %v, want nil", name, err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("%s: Close: %v", name, err)
		}
	}
}

// TestCancelled: a done context ends a call whose answer does not come.
func TestCancelled(t *testing.T) {
	s := server{t: t}
	work := s.start(bench.Sign)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := work.Connect(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	s.answer = func(http.ResponseWriter, *http.Request, *acs.Claim) bool {
		cancel()
		<-ended
		return true
	}
	if err := c.Call(ctx); err == nil {
		t.Error("got nil, want an error")
	}
}

// TestNotReached: mistakes are found when a caller connects.
func TestNotReached(t *testing.T) {
	s := server{t: t}
	s.start(bench.Sign)
	for name, tc := range map[string]struct {
		cfg  apiclient.Config
		want string
	}{
		"another CA": {apiclient.Config{Endpoint: s.url, RootCAs: x509.NewCertPool(), AccessKeyId: "a", AccessKeySecret: "s"}, "certificate"},
		"nobody":     {apiclient.Config{Endpoint: "127.0.0.1:1", AccessKeyId: "a", AccessKeySecret: "s"}, "connecting to 127.0.0.1:1"},
		"port 443":   {apiclient.Config{Endpoint: "127.255.255.254", AccessKeyId: "a", AccessKeySecret: "s"}, "connecting to 127.255.255.254:443"},
	} {
		for _, operation := range bench.Operations {
			if _, err := s.work(operation, tc.cfg).Connect(t.Context(), 0); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s, %s: got %v, want %q", name, operation, err, tc.want)
			}
		}
	}
	if _, err := bench.NewEndpoint(apiclient.Config{Endpoint: "http://h/"}); err == nil {
		t.Error("NewEndpoint of an http URL: got nil, want an error")
	}
}
