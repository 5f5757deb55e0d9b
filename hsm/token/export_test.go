package token

import (
	"math"
	"testing"
	"time"
)

// SetClock replaces the clock of the watchdog, which reads it once at each of its ticks.
func SetClock(c *Config, now func() time.Time) { c.now = now }

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

// CheapHashes makes the hashes of refused PINs cheap until the test ends. It is for tests with
// many refusals, and must be called before the test opens a token.
func CheapHashes(t testing.TB) {
	before := scryptN
	scryptN = 1 << 4
	t.Cleanup(func() { scryptN = before })
}
