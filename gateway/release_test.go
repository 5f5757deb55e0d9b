package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// A heldBackend holds back signatures that it has made, while held is set.
type heldBackend struct {
	*hsmtest.Fake
	held   atomic.Bool
	signed chan struct{}
	resume chan struct{}
	err    error // of signatures that were held back; nil if they are good
}

func (h *heldBackend) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	signature, err := h.Fake.Sign(ctx, k, alg, digest)
	if h.held.Load() {
		h.signed <- struct{}{}
		<-h.resume
		if h.err != nil {
			return nil, h.err
		}
	}
	return signature, err
}

// withheld returns the audit lines which say that the results of an action were not released. all is how many
// lines say that such a result was made, or was about to be.
func (b *bench) withheld(action string) (withheld []audit.Entry, all int) {
	b.t.Helper()
	content, err := os.ReadFile(filepath.Join(b.dir, "audit.log"))
	if err != nil {
		b.t.Fatal(err)
	}
	results := make(map[uint64]bool)
	err = audit.Read(bytes.NewReader(content), func(line audit.Line) error {
		switch e := line.Entry; {
		case e == nil || e.Action != action:
		case e.Status == 200 || e.Intended:
			results[line.Seq] = true
		case results[e.NotReleased]:
			withheld = append(withheld, *e)
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return withheld, len(results)
}

// TestAnswerAfterChange lets operations with a key succeed, and has another caller take the key away
// before their answers leave. No result leaves, and the log says so.
func TestAnswerAfterChange(t *testing.T) {
	for change, tc := range map[string]struct {
		make func(b *bench)
		want *kms.Error
	}{
		"DisableKey": {func(b *bench) { b.local("DisableKey", nil, "KeyId", b.key.KeyId) }, kms.ErrKeyDisabled},
		"ScheduleKeyDeletion": {func(b *bench) {
			b.local("ScheduleKeyDeletion", nil, "KeyId", b.key.KeyId, "PendingWindowInDays", "7")
		}, kms.ErrKeyPendingDeletion},
		"deletion": {func(b *bench) {
			if err := b.db.Update(func(tx *store.Tx) error { return tx.Keys().Delete(b.key.KeyId) }); err != nil {
				b.t.Fatal(err)
			}
		}, kms.ErrKeyNotFound},
		"UpdateKeyDescription": {func(b *bench) {
			b.local("UpdateKeyDescription", nil, "KeyId", b.key.KeyId, "Description", "new")
		}, nil},
	} {
		for _, action := range []string{"AsymmetricSign", "AsymmetricVerify", "GetPublicKey"} {
			t.Run(change+", "+action, func(t *testing.T) { testAnswerAfterChange(t, action, tc.make, tc.want) })
		}
	}
}

func testAnswerAfterChange(t *testing.T, action string, change func(b *bench), want *kms.Error) {
	h := &heldBackend{signed: make(chan struct{}), resume: make(chan struct{})}
	hold := func(c *gateway.Config) {
		h.Fake = c.Backend.(*hsmtest.Fake)
		c.Backend = h
	}
	b := newBench(t, hold)
	b.stop()
	b.start(hold) // so that the first GetPublicKey needs a test signature
	p := map[string][]string{
		"AsymmetricSign": b.signParams(), "AsymmetricVerify": b.signParams("Value", "AAAA"),
		"GetPublicKey": {"KeyId", b.key.KeyId, "KeyVersionId", b.key.KeyVersionId},
	}[action]
	h.held.Store(true)
	answered := make(chan error, 1)
	var result struct{ Value, PublicKey any }
	go func() {
		request := kms.AdminRequest{Action: action, Parameters: params(p...), AsAdministrator: true}
		answered <- b.server.Do(t.Context(), request, &result)
	}()
	<-h.signed
	h.held.Store(false)
	change(b)
	h.resume <- struct{}{}
	err := <-answered
	withheld, all := b.withheld(action)
	if all != 1 {
		t.Fatalf("%d lines about the request, want 1", all)
	}
	if want == nil {
		if err != nil || len(withheld) != 0 {
			t.Errorf("got %v and lines about withheld results %v, want an answer", err, withheld)
		}
		return
	}
	if !errors.Is(err, want) || result.Value != nil || result.PublicKey != nil {
		t.Errorf("got %v, %+v, want only %v", err, result, want)
	}
	if len(withheld) != 1 || withheld[0].KeyId != b.key.KeyId || withheld[0].Code != want.Code {
		t.Errorf("lines about withheld results: %+v, want one of the request, with %s", withheld, want.Code)
	}
}

// TestIntendedLine holds a signature back until its line is in the log, and then lets it fail. The line
// says what was intended, and another one that no signature was released.
func TestIntendedLine(t *testing.T) {
	h := &heldBackend{signed: make(chan struct{}), resume: make(chan struct{}), err: hsm.ErrUnavailable}
	b := newBench(t, func(c *gateway.Config) {
		h.Fake = c.Backend.(*hsmtest.Fake)
		c.Backend = h
	})
	h.held.Store(true)
	answered := make(chan answer, 1)
	go func() { answered <- b.do(b.root, "AsymmetricSign", b.signParams()...) }()
	<-h.signed
	var intended audit.Entry
	b.eventually("the intended line", func() bool {
		for _, e := range b.auditLines() {
			if e.Intended {
				intended = e
			}
		}
		return intended.Intended
	})
	h.resume <- struct{}{}
	a := b.want(<-answered, 503, "ServiceUnavailableTemporary")
	if intended.RequestId != a.RequestId || intended.KeyVersionId != b.key.KeyVersionId || intended.Digest == nil || intended.Principal == "" {
		t.Errorf("the intended line: %+v, want request, version, digest and principal", intended)
	}
	withheld, all := b.withheld("AsymmetricSign")
	if all != 1 || len(withheld) != 1 || withheld[0].RequestId != a.RequestId || withheld[0].Reason == "" {
		t.Errorf("%d intended lines, and lines about withheld results: %+v, want one of each for the request", all, withheld)
	}
}

// TestIntendedLinesAreLimited lets signatures fail without pause. They do not fill the log, and the next good signature
// has a line.
func TestIntendedLinesAreLimited(t *testing.T) {
	const limited, requests = 3, 20
	var backend *hsmtest.Fake
	b := newBench(t, func(c *gateway.Config) {
		c.LogLines = limit.LogLines{PerCaller: limited, PerCallerPerMinute: 1e-9}
		backend = c.Backend.(*hsmtest.Fake)
	})
	backend.Fail(hsm.ErrBusy)
	for range requests {
		if a := b.do(b.root, "AsymmetricSign", b.signParams()...); a.Status != 503 {
			t.Fatalf("got %d %s, want 503", a.Status, a.Code)
		}
	}
	backend.Fail(nil)
	withheld, all := b.withheld("AsymmetricSign")
	if len(withheld) != limited || all != limited {
		t.Errorf("%d intended lines and %d about withheld results, want %d of each", all, len(withheld), limited)
	}
	a := b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 200, "")
	if e, _ := b.auditLine(a.RequestId); e.Intended {
		t.Errorf("the line %+v is intended, although another would not be allowed", e)
	}
}

// TestIntendedLinesAreReserved lets many signatures of one caller fail at the same moment. No more of them have
// second lines than the caller has lines for refusals.
func TestIntendedLinesAreReserved(t *testing.T) {
	const limited, requests = 3, 20
	h := &heldBackend{signed: make(chan struct{}), resume: make(chan struct{}), err: hsm.ErrUnavailable}
	b := newBench(t, func(c *gateway.Config) {
		c.LogLines = limit.LogLines{PerCaller: limited, PerCallerPerMinute: 1e-9}
		h.Fake = c.Backend.(*hsmtest.Fake)
		c.Backend = h
	})
	h.held.Store(true)
	answered := make(chan answer, requests)
	for range requests {
		go func() { answered <- b.do(b.root, "AsymmetricSign", b.signParams()...) }()
	}
	for range requests {
		<-h.signed
	}
	for range requests {
		h.resume <- struct{}{}
	}
	for range requests {
		if a := <-answered; a.Status != 503 {
			t.Errorf("got %d %s, want 503", a.Status, a.Code)
		}
	}
	if withheld, all := b.withheld("AsymmetricSign"); len(withheld) != limited || all != limited {
		t.Errorf("%d intended lines and %d about withheld results, want %d of each", all, len(withheld), limited)
	}
}

// An interruptedWriter calls a function before it writes the answer to the connection.
type interruptedWriter struct {
	*httptest.ResponseRecorder
	before func()
}

func (w *interruptedWriter) Flush() {
	w.before()
	w.ResponseRecorder.Flush()
}

// TestChangeAwaitsAnswers disables a key while a signature is written to its connection. DisableKey is
// answered after that, and signatures with another key do not wait.
func TestChangeAwaitsAnswers(t *testing.T) {
	b := newBench(t)
	other := b.newPair(hsm.EC_P256)
	var mu sync.Mutex
	var order []string // guarded by mu
	note := func(event string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, event)
	}
	disabled := make(chan error, 1)
	w := &interruptedWriter{ResponseRecorder: httptest.NewRecorder(), before: func() {
		go func() {
			err := b.server.Call(t.Context(), "DisableKey", params("KeyId", b.key.KeyId), nil)
			note("DisableKey")
			disabled <- err
		}()
		b.eventually("the line of DisableKey", func() bool {
			return slices.ContainsFunc(b.auditLines(), func(e audit.Entry) bool { return e.Action == "DisableKey" })
		})
		select { // a slow machine can only hide that DisableKey does not wait
		case err := <-disabled:
			t.Errorf("DisableKey is answered before the signature, with %v", err)
			disabled <- err
		case <-time.After(200 * time.Millisecond):
		}
		b.want(b.do(b.root, "AsymmetricSign", b.signParams("KeyId", other.KeyId, "KeyVersionId", other.KeyVersionId)...), 200, "")
		note("AsymmetricSign")
	}}
	query := b.sign(b.root, http.MethodGet, "AsymmetricSign", params(b.signParams()...))
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?"+query.Encode(), nil)
	r.TLS = new(tls.ConnectionState)
	b.server.Handler(b.listener).ServeHTTP(w, r)
	if !w.Flushed {
		t.Fatal("the answer was not written to the connection")
	}
	if err := <-disabled; err != nil {
		t.Fatal(err)
	}
	if w.Code != http.StatusOK || !slices.Equal(order, []string{"AsymmetricSign", "DisableKey"}) {
		t.Errorf("got %d and the answers in the order %v, want the signature first", w.Code, order)
	}
	b.want(b.do(b.root, "AsymmetricSign", b.signParams()...), 409, "Rejected.Disabled")
}
