package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A skewedClock is the clock of gateways that run the program that skewedBinary builds.
type skewedClock struct {
	t       *testing.T
	file    string
	skipped time.Duration // the time that has passed in addition
}

// newSkewedClock returns a clock that is right.
func newSkewedClock(t *testing.T) *skewedClock {
	t.Helper()
	c := &skewedClock{t: t, file: filepath.Join(t.TempDir(), "clock")}
	c.step(0)
	return c
}

// environment returns the variable that such a gateway needs.
func (c *skewedClock) environment() string { return "KMSGATE_TEST_CLOCK=" + c.file }

// step sets the wall clock, so that it is ahead of the right time. The time that passes is not
// affected.
func (c *skewedClock) step(ahead time.Duration) { c.write(ahead) }

// skip lets time pass, as both the wall clock and the monotonic clock show it.
func (c *skewedClock) skip(d time.Duration) {
	c.skipped += d
	c.write(c.skipped)
}

// now returns the time of the wall clock after skip.
func (c *skewedClock) now() time.Time { return time.Now().Add(c.skipped) }

func (c *skewedClock) write(ahead time.Duration) {
	c.t.Helper()
	// A gateway reads the file at any time, so it must always be whole.
	next := c.file + ".new"
	if err := os.WriteFile(next, fmt.Appendf(nil, "%s %s\n", ahead, c.skipped), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(next, c.file); err != nil {
		c.t.Fatal(err)
	}
}

// skewedBinary returns the path of a kmsgate whose clocks a skewedClock controls. It is built from
// the same sources, except for the file that reads the clocks.
func skewedBinary(t *testing.T) string {
	t.Helper()
	path, err := buildSkewed()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var buildSkewed = sync.OnceValues(func() (path string, err error) {
	replaced, err := filepath.Abs("../gateway/clock/wall.go")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(replaced); err != nil {
		return "", fmt.Errorf("the file that reads the clocks: %w", err) // an overlay could add it
	}
	replacement, err := filepath.Abs("testdata/skewed/wall.go")
	if err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {replaced: replacement}})
	if err != nil {
		return "", err
	}
	path = binary + "-skewed"
	list := path + ".json"
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	// As TestMain builds it, so that the packages that do not differ are built once.
	build := exec.Command("go", "build", fmt.Sprintf("-race=%v", !*plain), "-overlay", list, "-o", path, "./cmd/kmsgate")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building kmsgate with other clocks: %w\n%s", err, out)
	}
	return path, nil
})
