package integration

import (
	"context"
	"flag"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/integration/devgateway"
)

var keysInGateway = flag.Int("keys", 200, "how many keys TestManyKeys makes")

// TestManyKeys makes many keys through the API, starts the gateway again, and
// signs while nothing else happens and while keys are made without pause. How
// long everything takes it logs; what it asserts is that everything succeeds, and
// that the start takes less than 10 s.
func TestManyKeys(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	all := &made{versions: make(map[string]string)}
	began := time.Now()
	var makers sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(*keysInGateway))
	for range 4 {
		client, err := devgateway.SDK(g.Env)
		if err != nil {
			t.Fatal(err)
		}
		makers.Go(func() {
			for left.Add(-1) >= 0 {
				keyId, versionId, err := newKey(client)
				if err != nil {
					t.Errorf("making a key: %v", err)
					return
				}
				all.add(keyId, versionId)
			}
		})
	}
	makers.Wait()
	t.Logf("%d keys made in %v", all.len(), time.Since(began).Round(time.Millisecond))
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	g = start(t, dir)
	took := time.Since(began)
	t.Logf("started in %v", took.Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("a start took %v", took)
	}
	if *keysInGateway >= 1000 && !strings.Contains(g.Output(), "reading the keys of the token") {
		t.Error("the start said nothing of what it was about")
	}
	quiet := latencies(t, g, all)
	t.Logf("signing, quiet: %v", quiet)
	ctx, stop := context.WithCancel(t.Context())
	client, err := devgateway.SDK(g.Env)
	if err != nil {
		t.Fatal(err)
	}
	var churn sync.WaitGroup
	churned := 0
	churn.Go(func() {
		for ctx.Err() == nil {
			if _, _, err := newKey(client); err != nil {
				t.Errorf("making a key meanwhile: %v", err)
				return
			}
			churned++
		}
	})
	busy := latencies(t, g, all)
	stop()
	churn.Wait()
	t.Logf("signing, while %d keys were made: %v", churned, busy)
}

// latencies signs at a rate that leaves the machine some room, with 64 of the
// keys, and gives the 50th and the 99th percentile.
func latencies(t *testing.T, g *devgateway.Gateway, all *made) []time.Duration {
	t.Helper()
	type key struct{ keyId, versionId string }
	var keys []key
	for versionId, keyId := range all.versions {
		if keys = append(keys, key{keyId, versionId}); len(keys) == 64 {
			break
		}
	}
	var mu sync.Mutex
	var times []time.Duration // guarded by mu
	var callers sync.WaitGroup
	for c := range 2 {
		client, err := devgateway.SDK(g.Env)
		if err != nil {
			t.Fatal(err)
		}
		callers.Go(func() {
			pace := time.NewTicker(10 * time.Millisecond)
			defer pace.Stop()
			for i := range 8 * len(keys) {
				<-pace.C
				k := keys[(i+c*7)%len(keys)]
				began := time.Now()
				_, err := client.AsymmetricSign(&kms.AsymmetricSignRequest{KeyId: &k.keyId, KeyVersionId: &k.versionId,
					Algorithm: tea.String(string(hsm.ECDSA_SHA_256)), Digest: b64(make([]byte, 32))})
				if err != nil {
					t.Errorf("signing: %v", err)
				}
				mu.Lock()
				times = append(times, time.Since(began))
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	slices.Sort(times)
	return []time.Duration{times[len(times)/2].Round(time.Microsecond), times[len(times)*99/100].Round(time.Microsecond)}
}
