package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/hsm/sealed"
)

func TestRoute(t *testing.T) {
	var token, sealed hsmtest.Fake
	route := hsm.Route{Token: &token, Sealed: &sealed}
	for i, spec := range hsm.KeySpecs() {
		if _, err := route.Generate(t.Context(), spec, []byte{byte(i)}); err != nil {
			t.Fatalf("Generate %s: %v", spec, err)
		}
	}
	if token.Len() != len(hsm.KeySpecs())-1 || sealed.Len() != 1 {
		t.Errorf("%d keys in the token and %d sealed, want all but EC_SM2 in the token", token.Len(), sealed.Len())
	}
	outage := errors.New("down")
	for _, backend := range []*hsmtest.Fake{&token, &sealed} {
		backend.Fail(outage)
		if err := route.Health(t.Context()); !errors.Is(err, outage) {
			t.Errorf("Health with one backend down: %v, want its error", err)
		}
		backend.Fail(nil)
	}
}

// A witness is a backend that counts calls and falsifies signatures.
type witness struct {
	hsm.Backend
	wrong               atomic.Int64 // how many of the next signatures are wrong
	signed, quarantined atomic.Int64 // calls of Sign and Quarantine
	quarantineErr       error        // the result of Quarantine; nil if the backend works
}

func (w *witness) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	w.signed.Add(1)
	sig, err := w.Backend.Sign(ctx, k, alg, digest)
	if err == nil && w.wrong.Add(-1) >= 0 {
		sig = bytes.Clone(sig)
		sig[len(sig)-1] ^= 1
	}
	return sig, err
}

func (w *witness) Quarantine(ctx context.Context, k hsm.Key) error {
	w.quarantined.Add(1)
	return errors.Join(w.quarantineErr, w.Backend.Quarantine(ctx, k))
}

// newWitnessed returns a Route to a fake token and to software keys sealed by it, and the
// witness of each backend. The Route logs to log.
func newWitnessed(log *bytes.Buffer) (route hsm.Route, token, software *witness) {
	fake := new(hsmtest.Fake)
	token, software = &witness{Backend: fake}, &witness{Backend: sealed.New(fake)}
	return hsm.Route{Token: token, Sealed: software, Logger: slog.New(slog.NewTextHandler(log, nil))}, token, software
}

// TestRouteContract tests the contract with a Route to correct backends.
func TestRouteContract(t *testing.T) {
	route, _, _ := newWitnessed(new(bytes.Buffer))
	hsmtest.TestBackend(t, route, hsm.KeySpecs()...)
	if hsm.NewRoute(route, nil) != route {
		t.Error("NewRoute did not return the Route unchanged")
	}
}

// TestRouteVerifies makes a backend return one wrong signature, and then only wrong ones.
func TestRouteVerifies(t *testing.T) {
	for _, spec := range hsm.KeySpecs() {
		t.Run(string(spec), func(t *testing.T) { testVerifies(t, spec) })
	}
}

func testVerifies(t *testing.T, spec hsm.KeySpec) {
	log := new(bytes.Buffer)
	route, used, other := newWitnessed(log)
	if spec == hsm.EC_SM2 {
		used, other = other, used
	}
	key, err := route.Generate(t.Context(), spec, bytes.Repeat([]byte{7}, 16))
	if err != nil {
		t.Fatal(err)
	}
	digest := bytes.Repeat([]byte{1}, hsm.DigestSize)
	broken := errors.New("broken")
	for _, backend := range []struct {
		name                              string
		wrong, signed, quarantined, lines int64
		quarantine, want                  error
	}{
		{name: "good", signed: 1},
		{name: "wrong once", wrong: 1, signed: 2, quarantined: 1, lines: 1},
		{name: "always wrong", wrong: 1 << 30, signed: 2, quarantined: 2, lines: 2, want: hsm.ErrNotFound},
		{name: "broken", wrong: 1, signed: 1, quarantined: 1, lines: 1, quarantine: broken, want: broken},
		{name: "good again", signed: 1},
	} {
		for _, alg := range hsm.Algorithms(spec) {
			t.Run(string(alg)+" "+backend.name, func(t *testing.T) {
				used.wrong.Store(backend.wrong)
				used.signed.Store(0)
				used.quarantined.Store(0)
				used.quarantineErr = backend.quarantine
				log.Reset()
				sig, err := route.Sign(t.Context(), key, alg, digest)
				if !errors.Is(err, backend.want) || (err != nil) != (sig == nil) {
					t.Errorf("Sign: %x, %v, want the error %v", sig, err, backend.want)
				}
				if ok, verr := hsm.Verify(key, alg, digest, sig); err == nil && (!ok || verr != nil) {
					t.Errorf("Sign returned a wrong signature: %v", verr)
				}
				if used.signed.Load() != backend.signed || used.quarantined.Load() != backend.quarantined {
					t.Errorf("%d signatures and %d quarantines, want %d and %d",
						used.signed.Load(), used.quarantined.Load(), backend.signed, backend.quarantined)
				}
				withheld := strings.Count(log.String(), "withheld")
				if int64(withheld) != backend.lines || withheld > 0 && !strings.Contains(log.String(), fmt.Sprintf("%x", key.ID)) {
					t.Errorf("%d log lines of withheld signatures, want %d with the key's id:\n%s", withheld, backend.lines, log)
				}
			})
		}
	}
	if other.signed.Load() != 0 || other.quarantined.Load() != 0 {
		t.Error("Sign used the other backend")
	}
}

// TestRouteChecks requests signatures that hsm.Check rejects. No request reaches a backend.
func TestRouteChecks(t *testing.T) {
	route, token, software := newWitnessed(new(bytes.Buffer))
	for i, spec := range hsm.KeySpecs() {
		key, err := route.Generate(t.Context(), spec, bytes.Repeat([]byte{byte(i)}, 16))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 1, 20, 31, 33, 64} {
			for _, alg := range hsm.Algorithms(spec) {
				if _, err := route.Sign(t.Context(), key, alg, make([]byte, n)); !errors.Is(err, hsm.ErrDigest) {
					t.Errorf("%s of %d bytes: %v, want ErrDigest", alg, n, err)
				}
			}
		}
		for _, alg := range []hsm.Algorithm{"", "RSA_PSS_SHA_512"} {
			if _, err := route.Sign(t.Context(), key, alg, make([]byte, hsm.DigestSize)); !errors.Is(err, hsm.ErrAlgorithm) {
				t.Errorf("Sign with %q: %v, want ErrAlgorithm", alg, err)
			}
		}
	}
	if n := token.signed.Load() + software.signed.Load(); n != 0 {
		t.Errorf("%d requests that Check rejects reached a backend, want 0", n)
	}
}

// TestSelfTestVerifies makes a backend return one wrong signature, and then only wrong ones.
func TestSelfTestVerifies(t *testing.T) {
	fake := new(hsmtest.Fake)
	b := &witness{Backend: fake}
	key, err := b.Generate(t.Context(), hsm.EC_P256, bytes.Repeat([]byte{7}, 16))
	if err != nil {
		t.Fatal(err)
	}
	b.wrong.Store(1)
	if err := hsm.SelfTest(t.Context(), b, key); err != nil || b.quarantined.Load() != 1 {
		t.Errorf("SelfTest with one wrong signature: %v after %d quarantines, want nil after 1", err, b.quarantined.Load())
	}
	b.wrong.Store(1 << 30)
	if err := hsm.SelfTest(t.Context(), b, key); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("SelfTest with wrong signatures only: %v, want ErrNotFound", err)
	}
}
