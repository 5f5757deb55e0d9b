package hsmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"math"
	"math/bits"
	"slices"
	"sync"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
)

var _ hsm.Randomizer = (*Fake)(nil)

// Random returns bytes from crypto/rand.
func (f *Fake) Random(ctx context.Context, n int) ([]byte, error) {
	if err := hsm.CheckRandom(n); err != nil {
		return nil, err
	}
	if err := f.failure(ctx); err != nil {
		return nil, err
	}
	out := make([]byte, n)
	rand.Read(out)
	return out, nil
}

// TestRandomizer tests the contract of an hsm.Randomizer.
func TestRandomizer(t *testing.T, r hsm.Randomizer) {
	t.Helper()
	t.Run("Lengths", func(t *testing.T) {
		for _, n := range []int{1, 2, 15, 16, 17, 255, 1023, hsm.MaxRandom} {
			if out := mustRandom(t, r, n); len(out) != n {
				t.Errorf("Random(%d) returned %d bytes", n, len(out))
			}
		}
		for _, n := range []int{-1, 0, hsm.MaxRandom + 1, math.MaxInt} {
			if out, err := r.Random(t.Context(), n); err == nil || errors.Is(err, hsm.ErrUnavailable) {
				t.Errorf("Random(%d): %d bytes, %v, want an error other than ErrUnavailable", n, len(out), err)
			}
		}
	})
	t.Run("Uniform", func(t *testing.T) { testUniform(t, r) })
	t.Run("Cancelled", func(t *testing.T) {
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Random(cancelled, 16); !errors.Is(err, context.Canceled) {
			t.Errorf("Random with a cancelled context: %v, want context.Canceled", err)
		}
	})
	t.Run("Parallel", func(t *testing.T) { testDistinct(t, r) })
}

func mustRandom(t *testing.T, r hsm.Randomizer, n int) []byte {
	t.Helper()
	out, err := r.Random(t.Context(), n)
	if err != nil {
		t.Fatalf("Random(%d): %v", n, err)
	}
	return out
}

// testUniform checks 64 KiB made in large calls and 8 KiB made one byte a call, since a
// generator may be good at one of these only. A good generator fails once in 10^8 runs.
func testUniform(t *testing.T, r hsm.Randomizer) {
	for n, size := range map[int]int{hsm.MaxRandom: 64 << 10, 1: 8 << 10} {
		var all []byte
		for len(all) < size {
			all = append(all, mustRandom(t, r, n)...)
		}
		ones, missing := 0, 0
		for _, b := range all {
			ones += bits.OnesCount8(b)
		}
		for b := range 256 {
			if !bytes.Contains(all, []byte{byte(b)}) {
				missing++
			}
		}
		// The standard deviation of the ones among 8 * size fair bits is sqrt(2 * size).
		if deviation := ones - 4*size; deviation*deviation > 36*2*size {
			t.Errorf("%d bytes, %d a call: %d bits of %d are ones, more than 6 sigma from half", size, n, ones, 8*size)
		}
		if missing > 0 {
			t.Errorf("%d bytes, %d a call: %d of 256 byte values are missing", size, n, missing)
		}
	}
}

// testDistinct calls Random from 64 goroutines. No block of 16 bytes may occur twice.
func testDistinct(t *testing.T, r hsm.Randomizer) {
	outputs := make(chan []byte, 64)
	var wg sync.WaitGroup
	for range cap(outputs) {
		wg.Go(func() {
			out, err := r.Random(t.Context(), 256)
			if err != nil {
				t.Errorf("one of 64 concurrent calls of Random: %v", err)
			}
			outputs <- out
		})
	}
	wg.Wait()
	close(outputs)
	seen := make(map[string]bool)
	for out := range outputs {
		for block := range slices.Chunk(out, 16) {
			if seen[string(block)] {
				t.Errorf("block %x occurs twice", block)
			}
			seen[string(block)] = true
		}
	}
}
