package clock

import (
	"fmt"
	"os"
	"time"
	"unsafe"
)

// skewFile names the environment variable with the path of a file that holds two durations: by how
// much the wall clock is ahead, and how much time has passed in addition to what has.
const skewFile = "KMSGATE_TEST_CLOCK"

var skewStart = time.Now()

// wall returns the time of a wall clock that somebody has set. As on a real computer, that does not
// change the reading of the monotonic clock in a time.
func wall() time.Time {
	ahead, _ := skew()
	now := time.Now()
	// A time with a monotonic reading begins with a word that has the wall clock's seconds in the bits
	// from 30 on.
	*(*uint64)(unsafe.Pointer(&now)) += uint64(ahead/time.Second) << 30
	return now
}

// seen returns the time that has passed since the start.
func seen() time.Duration {
	_, passed := skew()
	return time.Since(skewStart) + passed
}

func skew() (ahead, passed time.Duration) {
	text, err := os.ReadFile(os.Getenv(skewFile))
	if err != nil {
		panic(err)
	}
	var first, second string
	if _, err := fmt.Sscan(string(text), &first, &second); err != nil {
		panic(err)
	}
	if ahead, err = time.ParseDuration(first); err != nil {
		panic(err)
	}
	if passed, err = time.ParseDuration(second); err != nil {
		panic(err)
	}
	return ahead, passed
}
