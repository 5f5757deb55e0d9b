package hsm

import (
	"context"
	"fmt"
)

// MaxRandom is the largest number of random bytes in one call.
const MaxRandom = 1024

// A Randomizer makes random bytes, in a token. Every implementation is held to
// hsmtest.TestRandomizer.
type Randomizer interface {
	// Random returns n random bytes, 1 to MaxRandom. The error is ErrNoRandom if the
	// token has no generator, or one that is visibly broken.
	Random(ctx context.Context, n int) ([]byte, error)
}

// CheckRandom returns an error unless one call may ask for n random bytes.
func CheckRandom(n int) error {
	if n < 1 || n > MaxRandom {
		return fmt.Errorf("%d random bytes cannot be had at once, only 1 to %d", n, MaxRandom)
	}
	return nil
}
