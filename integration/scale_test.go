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

var keysInGateway = flag.Int("keys", 200, "how many keys TestManyKeys creates")

// TestManyKeys creates many keys through the API, restarts the gateway, and signs first without and
// then with concurrent calls of CreateKey. It logs the durations. It fails if a call fails, or if -plain
// is set to measure figures and the start takes more than 10 s.
func TestManyKeys(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	g := start(t, dir)
	all := make(map[string]string) // KeyVersionId → KeyId; guarded by mu until creators have ended
	var mu sync.Mutex
	began := time.Now()
	var creators sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(*keysInGateway))
	for range 4 {
		client, err := devgateway.SDK(g.Env)
		if err != nil {
			t.Fatal(err)
		}
		creators.Go(func() {
			for left.Add(-1) >= 0 {
				keyId, versionId, err := newKey(client)
				if err != nil {
					t.Errorf("creating a key: %v", err)
					return
				}
				mu.Lock()
				all[versionId] = keyId
				mu.Unlock()
			}
		})
	}
	creators.Wait()
	t.Logf("%d keys created in %v", len(all), time.Since(began).Round(time.Millisecond))
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	g = start(t, dir)
	took := time.Since(began)
	t.Logf("started in %v", took.Round(time.Millisecond))
	if *plain && took > 10*time.Second {
		t.Errorf("the start took %v, want at most 10 s", took)
	}
	if *keysInGateway >= 1000 && !strings.Contains(g.Output(), "reading the keys of the token") {
		t.Error("the gateway did not log that it reads the token's keys")
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
				t.Errorf("creating a key during signatures: %v", err)
				return
			}
			churned++
		}
	})
	busy := latencies(t, g, all)
	stop()
	churn.Wait()
	t.Logf("signing, while %d keys were created: %v", churned, busy)
}

// latencies signs with up to 64 of the keys, at a rate of 200 signatures a second, which leaves the
// machine some room. It returns the 50th and the 99th percentile of the durations.
func latencies(t *testing.T, g *devgateway.Gateway, all map[string]string) []time.Duration {
	t.Helper()
	type key struct{ keyId, versionId string }
	var keys []key
	for versionId, keyId := range all {
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
	median, p99 := times[len(times)/2], times[len(times)*99/100]
	return []time.Duration{median.Round(time.Microsecond), p99.Round(time.Microsecond)}
}
