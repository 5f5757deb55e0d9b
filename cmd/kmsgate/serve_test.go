package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/fstest"
)

// TestWarnOfSwap tests that the log of a start says so if memory can be swapped out, and what to do.
func TestWarnOfSwap(t *testing.T) {
	for swaps, want := range map[string]bool{
		"Filename Type Size Used Priority\n":                                   false,
		"Filename Type Size Used Priority\n/dev/sda2 partition 8388604 0 -2\n": true,
	} {
		var log bytes.Buffer
		warnOfSwap(slog.New(slog.NewTextHandler(&log, nil)), fstest.MapFS{"proc/swaps": {Data: []byte(swaps)}})
		if got := strings.Contains(log.String(), "level=WARN") && strings.Contains(log.String(), "MemorySwapMax=0"); got != want || !want && log.Len() > 0 {
			t.Errorf("with the swaps %q: logged %q, want a warning: %v", swaps, log.String(), want)
		}
	}
}
