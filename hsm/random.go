package hsm

import (
	"context"
	"fmt"
)

// MaxRandom is the largest number of random bytes in one call.
const MaxRandom = 1024

// A Randomizer makes random bytes in a token. Every implementation is tested by
// hsmtest.TestRandomizer.
type Randomizer interface {
	// Random returns n random bytes, where n is 1 to MaxRandom. The error is ErrNoRandom if
	// the token has no generator or its generator repeats itself.
	Random(ctx context.Context, n int) ([]byte, error)
}

// CheckRandom returns an error unless n is a valid argument of Random.
func CheckRandom(n int) error {
	if n < 1 || n > MaxRandom {
		return fmt.Errorf("requesting %d random bytes: the range is 1 to %d", n, MaxRandom)
	}
	return nil
}
