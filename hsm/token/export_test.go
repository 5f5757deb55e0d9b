package token

import (
	"math"
	"testing"
)

// ForceCopies makes connections keep session copies, however slow the trial finds them, until
// the test ends. It must be called before the test opens a token; further calls do nothing.
func ForceCopies(t testing.TB) {
	forced := math.Inf(1)
	if copyGain == forced {
		return
	}
	before := copyGain
	copyGain = forced
	t.Cleanup(func() { copyGain = before })
}
