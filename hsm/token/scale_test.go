package token_test

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/sealed"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
)

var keysInToken = flag.Int("keys", 1000, "number of key pairs in the token of BenchmarkKeys")

// BenchmarkKeys measures a token with many key pairs: the time to open it, and the time of
// signatures on P-256. It measures signatures with and without session copies, on an idle
// token and while another caller makes and destroys keys without pause. An operation is one
// signature.
func BenchmarkKeys(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2 * runtime.NumCPU())) // as in the gateway
	soft, keys := manyKeys(b, *keysInToken)
	for _, without := range []bool{false, true} {
		name := map[bool]string{false: "copies", true: "no copies"}[without]
		cfg := config(soft)
		cfg.NoSessionCopies = without
		began := time.Now()
		tok, err := token.Open(cfg)
		if err != nil {
			b.Fatal(err)
		}
		opening := time.Since(began)
		for _, churn := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/churn=%v", name, churn), func(b *testing.B) {
				measureSigning(b, tok, keys[:min(len(keys), 500)], churn)
				b.ReportMetric(opening.Seconds(), "s-to-open")
			})
		}
		tok.Close()
	}
}

// manyKeys returns a token with n key pairs.
func manyKeys(b *testing.B, n int) (*softhsm.Token, []hsm.Key) {
	b.Helper()
	soft, _ := newSoftHSM(b)
	cfg := config(soft)
	cfg.AfterChange = nil // the keys need not survive a power failure
	tok, err := token.Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer tok.Close()
	keys := make([]hsm.Key, n)
	for i := range keys {
		keys[i] = generate(b, tok, hsm.EC_P256)
	}
	return soft, keys
}

// measureSigning signs b.N times without saturating the machine: each of two callers makes a
// signature every 2 ms.
func measureSigning(b *testing.B, tok *token.Token, keys []hsm.Key, churn bool) {
	backend := hsm.NewRoute(tok, nil)
	digest := sha256.Sum256([]byte("message"))
	for range 4 { // enough for a copy
		for _, key := range keys {
			if _, err := backend.Sign(b.Context(), key, hsm.ECDSA_SHA_256, digest[:]); err != nil {
				b.Fatal(err)
			}
		}
	}
	ctx, stop := context.WithCancel(b.Context())
	var churning sync.WaitGroup
	var changes atomic.Int64
	if churn {
		churning.Go(func() {
			for ctx.Err() == nil {
				key := generate(b, tok, hsm.EC_P256)
				if err := tok.Destroy(b.Context(), key); err != nil {
					b.Error(err)
				}
				changes.Add(1)
			}
		})
	}
	began := time.Now()
	times := make([]time.Duration, b.N)
	var callers sync.WaitGroup
	const callerCount = 2
	b.ResetTimer()
	for c := range callerCount {
		callers.Go(func() {
			pace := time.NewTicker(2 * time.Millisecond)
			defer pace.Stop()
			for i := c; i < len(times); i += callerCount {
				<-pace.C
				began := time.Now()
				if _, err := backend.Sign(b.Context(), keys[i%len(keys)], hsm.ECDSA_SHA_256, digest[:]); err != nil {
					b.Error(err)
				}
				times[i] = time.Since(began)
			}
		})
	}
	callers.Wait()
	b.StopTimer()
	stop()
	churning.Wait()
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(changes.Load())/time.Since(began).Seconds(), "changes/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSign measures signing and, separately, verifying for each KeySpec. It signs like the
// gateway, which includes verifying, and uses every core.
func BenchmarkSign(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2 * runtime.NumCPU())) // as in the gateway
	soft, _ := newSoftHSM(b)
	tok, err := token.Open(config(soft))
	if err != nil {
		b.Fatal(err)
	}
	defer tok.Close()
	backend := hsm.Route{Token: tok, Sealed: sealed.New(tok)}
	digest := sha256.Sum256([]byte("message"))
	for _, spec := range hsm.KeySpecs() {
		key, alg := generate(b, backend, spec), hsm.Algorithms(spec)[0]
		var sig []byte
		for range 100 { // enough for a copy
			if sig, err = backend.Sign(b.Context(), key, alg, digest[:]); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(string(spec)+"/sign", func(b *testing.B) {
			inParallel(b, func() error { _, err := backend.Sign(b.Context(), key, alg, digest[:]); return err })
		})
		b.Run(string(spec)+"/verify", func(b *testing.B) {
			inParallel(b, func() error { _, err := hsm.Verify(key, alg, digest[:], sig); return err })
		})
	}
}

func inParallel(b *testing.B, do func() error) {
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := do(); err != nil {
				b.Error(err)
			}
		}
	})
}
