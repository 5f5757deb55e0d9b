package hsm

import (
	"context"
	"fmt"
)

// MaxRandom is how many random bytes can be had at once.
const MaxRandom = 1024

// A Randomizer makes random bytes, in a token. Every implementation is held to
// hsmtest.TestRandomizer.
type Randomizer interface {
	// Random gives n random bytes, 1 to MaxRandom. A token that has no generator, or
	// one that shows that it is broken, is ErrNoRandom.
	Random(ctx context.Context, n int) ([]byte, error)
}

// CheckRandom reports whether n random bytes can be had at once.
func CheckRandom(n int) error {
	if n < 1 || n > MaxRandom {
		return fmt.Errorf("%d random bytes cannot be had at once, only 1 to %d", n, MaxRandom)
	}
	return nil
}
