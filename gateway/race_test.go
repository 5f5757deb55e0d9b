//go:build race

package gateway_test

// raceDetector says that the race detector watches the tests.
const raceDetector = true
