// Package kmsgatetest runs a gateway inside a test, for programs that call Alibaba Cloud KMS's signing
// API. It needs neither a PKCS#11 module nor C. Nothing protects the keys.
//
//	func TestPay(t *testing.T) {
//		kms := kmsgatetest.Start(t, "")
//		pay(kms.Endpoint, kms.CAFile, kms.AccessKeyId, kms.AccessKeySecret)
//	}
package kmsgatetest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kmsgate/kmsgate/internal/dev"
	"github.com/kmsgate/kmsgate/internal/softwarekeys"
)

// A Gateway is a gateway that serves until its test ends.
type Gateway struct {
	Endpoint        string // host and port
	CAFile          string // the path of the CA's certificate, PEM
	AccessKeyId     string // the first of the seed, or one with full rights
	AccessKeySecret string
	RegionId        string
	InstanceId      string
	AccountId       string

	// Env has the variables that kmsgate dev exports (docs/dev.md).
	Env map[string]string
}

// started counts gateways, to give each a different address: SDKs keep connections for each address
// as long as the process lives.
var started atomic.Int32

// Start starts a gateway. seed is the text of a seed (docs/dev.md). If it is empty, the gateway has an
// access key with full rights, a client key, and a key of each KeySpec except RSA_4096. Start fails the
// test if the gateway cannot start.
func Start(t testing.TB, seed string) *Gateway {
	t.Helper()
	o := dev.Options{Listen: address(), Log: output{t}}
	o.Appliance.Device = softwarekeys.Device
	o.Dir = t.TempDir()
	if seed != "" {
		var err error
		if o.Seed, err = dev.ParseSeed([]byte(seed), "."); err != nil {
			t.Fatalf("kmsgatetest: the seed has mistakes:\n%v", err)
		}
	}
	ready, ended := make(chan dev.Environment, 1), make(chan error, 1)
	o.Ready = func(_ string, env dev.Environment, _ []string) { ready <- env }
	ctx, stop := context.WithCancel(context.Background())
	go func() { ended <- dev.Run(ctx, o) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("kmsgatetest: the gateway failed: %v", err)
		}
	})
	select {
	case env := <-ready:
		return newGateway(env)
	case err := <-ended:
		ended <- nil
		t.Fatalf("kmsgatetest: starting the gateway: %v", err)
		return nil
	}
}

func newGateway(env dev.Environment) *Gateway {
	g := &Gateway{Env: make(map[string]string)}
	for _, v := range env {
		g.Env[v[0]] = v[1]
	}
	g.Endpoint, g.CAFile = g.Env["KMSGATE_ENDPOINT"], g.Env["KMSGATE_CA_FILE"]
	g.AccessKeyId, g.AccessKeySecret = g.Env["KMSGATE_ACCESS_KEY_ID"], g.Env["KMSGATE_ACCESS_KEY_SECRET"]
	g.RegionId, g.InstanceId, g.AccountId = g.Env["KMSGATE_REGION_ID"], g.Env["KMSGATE_INSTANCE_ID"], g.Env["KMSGATE_ACCOUNT_ID"]
	return g
}

// Key returns the first key of a KeySpec, such as EC_P256, and its first version. It fails the test if
// there is none.
func (g *Gateway) Key(t testing.TB, spec string) (keyId, keyVersionId string) {
	t.Helper()
	keyId, keyVersionId = g.Env["KMSGATE_KEY_"+spec], g.Env["KMSGATE_KEYVERSION_"+spec]
	if keyId == "" {
		t.Fatalf("kmsgatetest: the gateway has no key of KeySpec %s", spec)
	}
	return keyId, keyVersionId
}

// address returns an address for the next gateway. Only Linux has all of 127.0.0.0/8.
func address() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1:0"
	}
	n := started.Add(1)
	return fmt.Sprintf("127.1.%d.%d:0", n/250%250, n%250+2)
}

// output shows what a gateway logs in the test's output.
type output struct{ testing.TB }

func (o output) Write(line []byte) (int, error) {
	o.Log(strings.TrimSuffix(string(line), "\n"))
	return len(line), nil
}
