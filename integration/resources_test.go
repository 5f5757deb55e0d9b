package integration

import (
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kms "github.com/alibabacloud-go/kms-20160120/v3/client"
	"github.com/alibabacloud-go/tea/tea"
	dkms "github.com/aliyun/alibabacloud-dkms-gcs-go-sdk/sdk"

	"github.com/kmsgate/kmsgate/gateway/adminclient"
	ours "github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/integration/devgateway"
	"github.com/kmsgate/kmsgate/policy"
)

// An input is a request that is as large as a door permits.
type input struct {
	name  string
	times int // that a short run sends it
	send  func() error
}

// A usage is what a gateway's process uses.
type usage struct{ heap, descriptors, goroutines float64 }

func (g *instance) usage(t *testing.T) usage {
	t.Helper()
	return usage{g.metric(t, "go_memstats_heap_inuse_bytes"), g.metric(t, "process_open_fds"), g.metric(t, "go_goroutines")}
}

// isWithin reports whether u is at most 10 % and a constant above base. kept is how many nonces the
// gateway may still remember, in 64 bytes each with their share of the table.
func (u usage) isWithin(base usage, kept int64) bool {
	return u.heap <= 1.1*base.heap+4<<20+64*float64(kept) &&
		u.descriptors <= 1.1*base.descriptors+16 && u.goroutines <= 1.1*base.goroutines+16
}

// TestResourcesReturn sends the largest legal inputs to each door of a gateway. It must keep nothing
// of a request except its nonce, and 16 minutes later not even that: heap, descriptors and
// goroutines return to what they were.
func TestResourcesReturn(t *testing.T) {
	t.Parallel()
	clock := newSkewedClock(t)
	// The garbage collector runs often, so that the heap has little but what is in use.
	g := newInstance(t, skewedBinary(t), clock.environment(), "GOGC=20")
	g.configure(t, "idle_timeout: 2m", "idle_timeout: 1s")
	g.start(t)
	inputs, end := largestInputs(t, g)
	var sent atomic.Int64
	for _, i := range inputs { // fills pools and caches
		for range 5 {
			if err := i.send(); err != nil {
				t.Fatalf("%s: %v", i.name, err)
			}
		}
	}
	end()
	base := g.usage(t)
	for range 50 { // several collections
		u := g.usage(t)
		base = usage{min(base.heap, u.heap), min(base.descriptors, u.descriptors), min(base.goroutines, u.goroutines)}
	}
	for _, i := range inputs {
		i.repeat(t, &sent, *soak/time.Duration(len(inputs)))
	}
	end()
	last := usage{}
	waitLong(t, "the gateway to keep only nonces", func() bool {
		last = g.usage(t)
		return last.isWithin(base, sent.Load())
	})
	t.Logf("before: %+v, after %d requests: %+v", base, sent.Load(), last)
	clock.skip(17 * time.Minute)
	client := &http.Client{Transport: trusting(t, g.env), Timeout: longWait}
	defer client.CloseIdleConnections()
	waitLong(t, "the gateway to forget everything", func() bool {
		request := require[*http.Request](t)(rawRequest{action: "DescribeRegions"}.sign(g.env, clock.now()))
		if code, err := sendRaw(client, request); code != answered {
			t.Fatalf("a request of the time 17 minutes later: %q, %v", code, err)
		}
		last = g.usage(t)
		return last.isWithin(base, 0)
	})
	t.Logf("17 minutes later: %+v", last)
	g.stop(t)
}

// A footprint is the memory of a gateway's process that is in RAM, and the nonces that it remembers.
type footprint struct{ resident, nonces float64 }

func (g *instance) footprint(t *testing.T) footprint {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var kibibytes float64
	_, resident, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(resident, &kibibytes); err != nil {
		t.Fatalf("reading the resident memory of the gateway: %v, in\n%s", err, status)
	}
	return footprint{1024 * kibibytes, g.metric(t, "kmsgate_nonces")}
}

func (f footprint) String() string {
	return fmt.Sprintf("%.1f MiB, %.0f nonces", f.resident/(1<<20), f.nonces)
}

// isFlat reports whether f differs from base by at most 10 %, besides the memory of nonces.
func (f footprint) isFlat(base footprint) bool {
	const nonceSize = 48 // bytes at most
	return math.Abs(f.resident-base.resident-nonceSize*(f.nonces-base.nonces)) <= 0.1*base.resident
}

// TestMemoryIsFlat runs a gateway under mixed requests for 27 minutes, or for the time that -soak sets
// if that is longer. The number of records stays the same, and that of nonces does after 16 minutes.
// From minute 17 on, the resident memory must stay the same, too. Without -soak, a minute lasts a tenth
// of a second, and the test only reads the figures.
func TestMemoryIsFlat(t *testing.T) {
	t.Parallel()
	minute, program := long(100*time.Millisecond, max(time.Minute, *soak/27)), binary
	if *soak > 0 { // the race detector takes memory
		program = filepath.Join(t.TempDir(), "kmsgate")
		if out, err := buildPlain(program).CombinedOutput(); err != nil {
			t.Fatalf("building kmsgate: %v\n%s", err, out)
		}
	}
	g, l := newInstance(t, program), newLedger(newRandom(t))
	l.steady = true
	g.start(t)
	signers, changers := callerCounts()
	l.start(t, g.env, signers, changers)
	l.served(t, "after the start")
	clock := time.NewTicker(minute)
	defer clock.Stop()
	var base footprint
	for n := 1; n <= 27; n++ {
		<-clock.C
		f := g.footprint(t)
		if f.resident <= 0 || f.nonces <= 0 {
			t.Fatalf("minute %d: %v, want more than zero of both", n, f)
		}
		t.Logf("minute %d: %v, %d signatures, %d changes", n, f, l.count(signing, answered), l.count(changing, answered))
		if n == 17 {
			base = f
		}
		if n > 17 && *soak > 0 && !f.isFlat(base) {
			t.Errorf("minute %d: the resident memory differs by more than 10 %% from minute 17: %v, want %v", n, f, base)
		}
	}
	if failures := l.failures(temporary); failures != "" {
		t.Errorf("unexpected answers:\n%s", failures)
	}
	l.prove(t, g)
}

// configure replaces before with after in the configuration of a gateway that is stopped.
func (g *instance) configure(t *testing.T, before, after string) {
	t.Helper()
	text, err := os.ReadFile(g.configuration())
	if err != nil || !strings.Contains(string(text), before) {
		t.Fatalf("the configuration does not contain %q, %v", before, err)
	}
	if err := os.WriteFile(g.configuration(), []byte(strings.Replace(string(text), before, after, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// repeat sends the input from four goroutines, its number of times or for a duration if that is not
// zero. It counts the requests.
func (i input) repeat(t *testing.T, sent *atomic.Int64, d time.Duration) {
	t.Helper()
	began := time.Now()
	var left atomic.Int64
	left.Store(int64(i.times))
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for d > 0 && time.Since(began) < d || d == 0 && left.Add(-1) >= 0 {
				if err := i.send(); err != nil {
					t.Errorf("%s: %v", i.name, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	senders.Wait()
}

// largestInputs returns the largest inputs of all doors, and a function that closes the connections
// that they have left.
func largestInputs(t *testing.T, g *instance) (all []input, end func()) {
	t.Helper()
	client := &http.Client{Transport: trusting(t, g.env), Timeout: longWait}
	raw := func(q rawRequest) func() error {
		q.action = cmp.Or(q.action, "DescribeRegions")
		return func() error {
			r, err := q.sign(g.env, time.Now())
			if err != nil {
				return err
			}
			code, err := sendRaw(client, r)
			if err == nil && code != answered {
				err = errors.New(code)
			}
			return err
		}
	}
	unknown := url.Values{"Unknown": {strings.Repeat("x", 256<<10-1<<10)}}
	keyId, keyVersionId, err := newKey(require[*kms.Client](t)(devgateway.SDK(g.env)))
	if err != nil {
		t.Fatal(err)
	}
	change := url.Values{"KeyId": {keyId}, "EnableDeletionProtection": {"false"}}
	all = []input{
		{"a small request", 400, raw(rawRequest{})},
		{"the largest nonce", 200, raw(rawRequest{nonce: strings.Repeat("x", 256-36)})},
		{"header fields of 15 KiB", 100, raw(rawRequest{padding: 14 << 10})},
		{"a query of 255 KiB", 50, raw(rawRequest{query: unknown})},
		{"a body of 255 KiB", 50, raw(rawRequest{form: unknown})},
		{"a change with header fields of 15 KiB", 50, raw(rawRequest{action: "SetDeletionProtection", query: change, padding: 14 << 10})},
		{"a native request of 3 MiB", 10, nativeInput(t, g)},
		{"connections", 2, func() error { return connect(t, g, 16) }},
	}
	atAdmin, endAdmin := adminInputs(t, g, keyId, keyVersionId)
	return append(all, atAdmin...), func() {
		client.CloseIdleConnections()
		endAdmin()
	}
}

// adminInputs returns the largest inputs of the local door, and a function that closes its connections.
func adminInputs(t *testing.T, g *instance, keyId, keyVersionId string) (all []input, end func()) {
	t.Helper()
	admin := adminclient.Dial(g.env["KMSGATE_ADMIN_SOCKET"])
	largest := func() error {
		err := admin.Call(t.Context(), "ListUsers", map[string]string{"Unknown": strings.Repeat("x", 1<<20-1<<10)}, nil)
		if refusal := (*ours.Error)(nil); errors.As(err, &refusal) {
			return nil // the door has read it
		}
		return err
	}
	const statement = `{"Version":"1","Statement":[{"Effect":"Deny","Action":"kms:DescribeKey","Resource":"*"}]`
	document := map[string]string{"PolicyName": "large",
		"PolicyDocument": statement + strings.Repeat(" ", policy.MaxDocument-len(statement)-1) + "}"}
	if err := admin.Call(t.Context(), "CreateRamPolicy", document, nil); err != nil {
		t.Fatal(err)
	}
	signature := ours.AdminRequest{Action: "AsymmetricSign", AsAdministrator: true, Parameters: map[string]string{
		"KeyId": keyId, "KeyVersionId": keyVersionId, "Algorithm": string(hsm.ECDSA_SHA_256),
		"Digest": base64.StdEncoding.EncodeToString(make([]byte, hsm.DigestSize))}}
	return []input{
		{"an admin request of 1 MiB", 20, largest},
		{"a RAM policy of 32 KiB", 50, func() error { return admin.Call(t.Context(), "UpdateRamPolicy", document, nil) }},
		{"a local signature", 100, func() error { return admin.Do(t.Context(), signature, nil) }},
	}, func() { _ = admin.Close() } // always succeeds
}

// nativeInput returns a function that signs a large message with a client key.
func nativeInput(t *testing.T, g *instance) func() error {
	t.Helper()
	client := require[*kms.Client](t)(devgateway.SDK(g.env))
	keyId, _, err := newKey(client)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	password, file := filepath.Join(dir, "password"), filepath.Join(dir, "client.json")
	if err := os.WriteFile(password, []byte("password1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"aap", "permission", "create", "sign", "--all-keys"},
		{"aap", "create", "app", "--permission", "sign"},
		{"clientkey", "create", "--aap", "app", "--out", file, "--password-file", password},
	} {
		administer(t, g.env, args...)
	}
	g.env["KMSGATE_CLIENT_KEY_FILE"], g.env["KMSGATE_CLIENT_KEY_PASSWORD"] = file, "password1"
	sdk, message := newInstanceSDK(t, g.env), make([]byte, ours.MaxNativeBody-4<<10)
	var mu sync.Mutex // the client is not safe for concurrent use
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		_, err := sdk.Sign(&dkms.SignRequest{KeyId: &keyId, Algorithm: tea.String("ECDSA_SHA_256"), Message: message})
		return err
	}
}

// connect opens connections and closes them without a request.
func connect(t *testing.T, g *instance, number int) error {
	t.Helper()
	config := trusting(t, g.env).TLSClientConfig
	for range number {
		c, err := tls.Dial("tcp", g.env["KMSGATE_ENDPOINT"], config)
		if err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		defer c.Close()
	}
	return nil
}
