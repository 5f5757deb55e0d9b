package clock

import "time"

var began = time.Now()

// wall returns the time of this machine's clock, which somebody can set.
func wall() time.Time { return time.Now() }

// seen returns how much time this process has seen pass: a clock that nobody can set, and that stands
// still while the machine is suspended.
func seen() time.Duration { return time.Since(began) }
