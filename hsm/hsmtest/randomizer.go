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

// Random returns bytes of crypto/rand.
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

// TestRandomizer is the contract of an hsm.Randomizer.
func TestRandomizer(t *testing.T, r hsm.Randomizer) {
	t.Helper()
	t.Run("Lengths", func(t *testing.T) {
		for _, n := range []int{1, 2, 15, 16, 17, 255, 1023, hsm.MaxRandom} {
			if out := mustRandom(t, r, n); len(out) != n {
				t.Errorf("Random(%d) gave %d bytes", n, len(out))
			}
		}
		for _, n := range []int{-1, 0, hsm.MaxRandom + 1, math.MaxInt} {
			if out, err := r.Random(t.Context(), n); err == nil || errors.Is(err, hsm.ErrUnavailable) {
				t.Errorf("Random(%d): %d bytes, %v, want an error that speaks of the number", n, len(out), err)
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

// testUniform looks at 64 KiB that were made at once and at 8 KiB of single bytes, as a
// generator may be good at one alone. A good one fails once in 10^8 times.
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
		if off := ones - 4*size; off*off > 36*2*size {
			t.Errorf("%d bytes, %d at once: %d bits of %d are ones, more than 6 sigma from the half", size, n, ones, 8*size)
		}
		if missing > 0 {
			t.Errorf("%d bytes, %d at once: %d values are missing", size, n, missing)
		}
	}
}

// testDistinct asks from 64 goroutines. No 16 bytes may be given out twice.
func testDistinct(t *testing.T, r hsm.Randomizer) {
	outputs := make(chan []byte, 64)
	var wg sync.WaitGroup
	for range cap(outputs) {
		wg.Go(func() {
			out, err := r.Random(t.Context(), 256)
			if err != nil {
				t.Errorf("Random among 64: %v", err)
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
				t.Errorf("%x was given out twice", block)
			}
			seen[string(block)] = true
		}
	}
}
