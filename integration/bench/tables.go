package main

import (
	"fmt"
	"os"
	"strings"
)

// tables returns what the page shows.
func tables(r results) string {
	text := rates(r)
	if r.open != nil {
		text += "\n" + latencies(r)
	}
	if p := r.find(peak); p != nil {
		text += "\n" + capacity(p.gateway)
	}
	return text
}

// rates returns the table of rates and processor times.
func rates(r results) string {
	var b strings.Builder
	b.WriteString("| request | gateway | gateway CPU | floor | floor CPU | token | token CPU | gateway : floor | gateway : token |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, m := range r.all {
		token, ratio := "| | |", "|"
		if m.token.PerSecond > 0 {
			token = fmt.Sprintf("| %s | %s |", rate(m.token), processorTime(m.token))
			ratio = percent(m.gateway.PerSecond, m.token.PerSecond) + " |"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s %s %s | %s\n", m.row, rate(m.gateway), processorTime(m.gateway),
			rate(m.floor), processorTime(m.floor), token, percent(m.gateway.PerSecond, m.floor.PerSecond), ratio)
	}
	return b.String()
}

func rate(f figure) string          { return thousands(f.PerSecond) + "/s" }
func processorTime(f figure) string { return fmt.Sprintf("%.0f µs", f.ServerMicroseconds) }
func percent(a, b float64) string   { return fmt.Sprintf("%.0f %%", 100*a/b) }

// thousands returns a number with a comma, rounded to three digits.
func thousands(x float64) string {
	n := int(x + 0.5)
	for unit := 1; ; unit *= 10 {
		if n < 1000*unit {
			n = (n + unit/2) / unit * unit
			break
		}
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// latencies returns the table of latencies of a signature.
func latencies(r results) string {
	var b strings.Builder
	b.WriteString("| sign EC_P256 | median | 95 % | 99 % | 99.9 % | longest |\n|---|---|---|---|---|---|\n")
	add := func(name string, f figure) {
		fmt.Fprintf(&b, "| %s | %.2f ms | %.2f ms | %.2f ms | %.2f ms | %.2f ms |\n",
			name, f.P50Milliseconds, f.P95Milliseconds, f.P99Milliseconds, f.P999Milliseconds, f.MaxMilliseconds)
	}
	add("1 caller, closed loop", r.find(single).gateway)
	add("32 callers, closed loop", r.find(peak).gateway)
	add(fmt.Sprintf("open loop, %s: half the peak", rate(figure{PerSecond: r.open.Rate})), *r.open)
	fmt.Fprintf(&b, "\nIn the open loop at half the peak, the 99th percentile is %.1f times the median of one caller.\n",
		r.open.P99Milliseconds/r.find(single).gateway.P50Milliseconds)
	return b.String()
}

// capacity returns how many signatures a core carries.
func capacity(f figure) string {
	return fmt.Sprintf("With 32 callers, a signature costs %.0f µs of a core: one core carries %s signatures a second.\n",
		f.ServerMicroseconds, thousands(1e6/f.ServerMicroseconds))
}

// The lines around the tables of the page.
const (
	startMarker = "<!-- tables: make bench -->\n"
	endMarker   = "<!-- end -->\n"
)

// replaceTables writes the tables to a page.
func replaceTables(path, text string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), startMarker)
	_, after, ended := strings.Cut(rest, endMarker)
	if !ok || !ended {
		return fmt.Errorf("%s lacks the lines %q and %q", path, startMarker, endMarker)
	}
	return os.WriteFile(path, []byte(before+startMarker+text+endMarker+after), 0o644)
}
