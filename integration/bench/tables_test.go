package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestThousands(t *testing.T) {
	for x, want := range map[float64]string{0.4: "0", 948.4: "948", 999.6: "1,000", 1234: "1,230", 17964: "18,000", 20870: "20,900", 123456: "123,000"} {
		if got := thousands(x); got != want {
			t.Errorf("%v: got %q, want %q", x, got, want)
		}
	}
}

// TestKeep: each of the three keeps the figures of its fastest round.
func TestKeep(t *testing.T) {
	figureOf := func(perSecond, cpu, token float64) figure {
		f := figure{PerSecond: perSecond, ServerMicroseconds: cpu}
		f.Token.PerSecond, f.Token.ServerMicroseconds = token, token/10
		return f
	}
	var r result
	r.keep(figureOf(100, 11, 70), figureOf(200, 21, 0))
	r.keep(figureOf(120, 12, 50), figureOf(190, 22, 0))
	r.keep(figureOf(110, 13, 80), figureOf(180, 23, 0))
	if r.gateway.ServerMicroseconds != 12 || r.floor.ServerMicroseconds != 21 || r.token.PerSecond != 80 || r.token.ServerMicroseconds != 8 {
		t.Errorf("got %+v, want the second round of the gateway, the first of the floor, the third of the token", r)
	}
}

func TestTables(t *testing.T) {
	r := results{all: []result{
		{row: single, gateway: figure{PerSecond: 500, ServerMicroseconds: 400, P50Milliseconds: 2},
			floor: figure{PerSecond: 5000, ServerMicroseconds: 50}, token: figure{PerSecond: 2000, ServerMicroseconds: 100}},
		{row: peak, gateway: figure{PerSecond: 4000, ServerMicroseconds: 250}, floor: figure{PerSecond: 16000, ServerMicroseconds: 45}, token: figure{PerSecond: 8000, ServerMicroseconds: 120}},
		{row: row{"publickey", "EC_P256", 32}, gateway: figure{PerSecond: 8000, ServerMicroseconds: 130}, floor: figure{PerSecond: 16000, ServerMicroseconds: 45}},
	}, open: &figure{Rate: 2000, P99Milliseconds: 5}}
	got := tables(r)
	for _, want := range []string{
		"| sign EC_P256, 1 caller | 500/s | 400 µs | 5,000/s | 50 µs | 2,000/s | 100 µs | 10 % | 25 % |\n",
		"| sign EC_P256, 32 callers | 4,000/s | 250 µs | 16,000/s | 45 µs | 8,000/s | 120 µs | 25 % | 50 % |\n",
		"| publickey EC_P256, 32 callers | 8,000/s | 130 µs | 16,000/s | 45 µs | | | 50 % | |\n",
		"| open loop, 2,000/s: half the peak | 0.00 ms | 0.00 ms | 5.00 ms |",
		"the 99th percentile is 2.5 times the median of one caller.\n",
		"a signature costs 250 µs of a core: one core carries 4,000 signatures a second.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant %q in it", got, want)
		}
	}
	r.all = r.all[2:]
	r.open = nil
	if got := tables(r); strings.Contains(got, "open loop") || strings.Contains(got, "core carries") {
		t.Errorf("without the rows of signatures: got\n%s\nwant the first table only", got)
	}
}

func TestReplaceTables(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("before\n"+startMarker+"old\n"+endMarker+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := replaceTables(page, "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(page); err != nil || string(text) != "before\n"+startMarker+"new\n"+endMarker+"after\n" {
		t.Errorf("got %q, %v, want the new text between the markers", text, err)
	}
	if err := os.WriteFile(page, []byte(startMarker), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := replaceTables(page, "new\n"); err == nil {
		t.Error("a page without the end: got nil, want an error")
	}
}

func TestWrap(t *testing.T) {
	text := strings.Repeat("word ", 60)
	got := wrap(text)
	if strings.Join(strings.Fields(got), " ") != strings.TrimSpace(text) {
		t.Errorf("got %q, want the same words", got)
	}
	for line := range strings.Lines(got) {
		if len(line) > 101 || line != strings.TrimSpace(line)+"\n" {
			t.Errorf("got the line %q, want at most 100 columns", line)
		}
	}
}
