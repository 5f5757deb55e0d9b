package token_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/hsm"
)

// TestNoDescriptors exhausts the file descriptors of the process. If SoftHSM tries to sign
// then, its token fails in this process until it is initialized again. Session copies need no
// files, but the original keys do.
func TestNoDescriptors(t *testing.T) {
	for name, without := range map[string]bool{"copies": false, "no copies": true} {
		t.Run(name, func(t *testing.T) { testNoDescriptors(t, without) })
	}
}

func testNoDescriptors(t *testing.T, without bool) {
	soft, _ := newSoftHSM(t)
	var losses atomic.Int32
	cfg := config(soft)
	cfg.OnLoss = func() { losses.Add(1) }
	cfg.NoSessionCopies = without
	cfg.WatchEvery, cfg.RecheckEvery = 50*time.Millisecond, 50*time.Millisecond
	tok := open(t, cfg)
	l := startLoad(t, tok, generate(t, tok, hsm.EC_P256), generate(t, tok, hsm.RSA_2048))
	for range 3 {
		l.testFault("exhausting the descriptors", func() {
			before := losses.Load()
			free := exhaustDescriptors(t)
			waitFor(t, "the loss to be noticed", func() bool { return losses.Load() > before })
			free()
		})
	}
}

// TestNoDescriptorsOnce exhausts the file descriptors of the process during one signature.
// After that, SoftHSM no longer finds the key, although other keys and the canary still sign.
// The key is not gone.
func TestNoDescriptorsOnce(t *testing.T) {
	f, cfg := newFaulty(t)
	cfg.NoSessionCopies = true
	tok := open(t, cfg)
	key := generate(t, tok, hsm.EC_P256)
	closed := f.Calls("C_CloseSession")
	f.Hang("C_CloseSession", 1) // after the first try and before the canary signature
	free := exhaustDescriptors(t)
	signed := make(chan error)
	go func() { signed <- signWithin(tok, key, 20*time.Second) }()
	waitFor(t, "the first try to fail", func() bool { return f.Calls("C_CloseSession") > closed })
	free()
	f.Release()
	if err := <-signed; err != nil {
		t.Error(err)
	}
}

// exhaustDescriptors lowers the limit of descriptors so that no more can be opened. free
// restores the limit.
func exhaustDescriptors(t *testing.T) (free func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	set := func(l unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Error(err)
		}
	}
	set(unix.Rlimit{Cur: 0, Max: limit.Max}) // also those below the highest open one, which calls in flight may free
	free = sync.OnceFunc(func() { set(limit) })
	t.Cleanup(free)
	return free
}
