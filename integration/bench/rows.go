package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// A row is one load.
type row struct {
	operation, spec string
	callers         int
}

func (r row) String() string {
	callers := "callers"
	if r.callers == 1 {
		callers = "caller"
	}
	return fmt.Sprintf("%s %s, %d %s", r.operation, r.spec, r.callers, callers)
}

// rows are all rows of the page.
var rows = []row{
	{"sign", "EC_P256", 1}, {"sign", "EC_P256", 8}, {"sign", "EC_P256", 32},
	{"sign", "RSA_2048", 8}, {"sign", "RSA_2048", 32},
	{"sign", "EC_P256K", 8}, {"sign", "EC_P256K", 32},
	{"sign", "EC_SM2", 8}, {"sign", "EC_SM2", 32},
	{"publickey", "EC_P256", 32}, {"verify", "EC_P256", 32},
}

// single and peak are the rows that the open loop is compared with.
var single, peak = rows[0], rows[2]

// A figure is what kmsgate bench prints of one load.
type figure struct {
	Rate      float64
	PerSecond float64
	Checked   int

	P50Milliseconds, P95Milliseconds, P99Milliseconds, P999Milliseconds, MaxMilliseconds float64

	ClientMicroseconds, ServerMicroseconds float64

	Token struct{ PerSecond, ServerMicroseconds float64 }
}

// A result is the best of the rounds of a row.
type result struct {
	row
	gateway, floor figure
	token          figure // only its PerSecond and ServerMicroseconds
}

// results are what was measured, in the order of the rows.
type results struct {
	all  []result
	open *figure // the open loop at half the peak; nil unless both its rows were measured
}

// find returns the result of a row, or nil.
func (r results) find(wanted row) *result {
	for i := range r.all {
		if r.all[i].row == wanted {
			return &r.all[i]
		}
	}
	return nil
}

// A bench measures two servers.
type bench struct {
	options
	gateway, floor *server
}

func (b bench) measure(ctx context.Context) (r results, err error) {
	for _, wanted := range rows {
		if b.rows.MatchString(wanted.String()) {
			r.all = append(r.all, result{row: wanted})
		}
	}
	if r.all == nil {
		return r, errors.New("-rows matches no row: the rows are " + fmt.Sprint(rows))
	}
	for round := range b.rounds {
		for i := range r.all {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, b.rounds, r.all[i].row)
			if err := b.measureRow(ctx, &r.all[i]); err != nil {
				return r, err
			}
		}
	}
	best := r.find(peak)
	if best == nil || r.find(single) == nil {
		return r, nil
	}
	rate := strconv.FormatFloat(best.gateway.PerSecond/2, 'f', 0, 64)
	for round := range b.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d: open loop, %s a second\n", round+1, b.rounds, rate)
		f, err := b.load(ctx, b.gateway, peak, "--rate", rate)
		if err != nil {
			return r, err
		}
		if r.open == nil || f.P99Milliseconds < r.open.P99Milliseconds {
			r.open = &f
		}
	}
	return r, nil
}

// measureRow measures one row of both servers and, if it signs, of the token.
func (b bench) measureRow(ctx context.Context, r *result) error {
	var more []string
	if r.operation == "sign" {
		more = []string{"--token"}
	}
	gateway, err := b.load(ctx, b.gateway, r.row, more...)
	if err != nil {
		return err
	}
	floor, err := b.load(ctx, b.floor, r.row)
	if err != nil {
		return err
	}
	r.keep(gateway, floor)
	return nil
}

// keep keeps what is better than before.
func (r *result) keep(gateway, floor figure) {
	token := figure{PerSecond: gateway.Token.PerSecond, ServerMicroseconds: gateway.Token.ServerMicroseconds}
	for _, f := range []struct{ best, now *figure }{{&r.gateway, &gateway}, {&r.floor, &floor}, {&r.token, &token}} {
		if f.now.PerSecond > f.best.PerSecond {
			*f.best = *f.now
		}
	}
}

// load runs kmsgate bench.
func (b bench) load(ctx context.Context, s *server, r row, more ...string) (figure, error) {
	args := append([]string{"bench", "--dir", s.dir, "--pid", strconv.Itoa(s.cmd.Process.Pid),
		"--key", "alias/dev-" + strings.ToLower(strings.ReplaceAll(r.spec, "_", "-")), "--operation", r.operation,
		"--callers", strconv.Itoa(r.callers), "--time", b.time.String(), "--warm-up", b.warmUp.String(), "-o", "json"}, more...)
	cmd := exec.CommandContext(ctx, b.kmsgate, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return figure{}, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	var all []figure
	if err := json.Unmarshal(out, &all); err != nil {
		return figure{}, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	if len(all) != 1 {
		return figure{}, fmt.Errorf("%s: got %d figures, want one", strings.Join(cmd.Args, " "), len(all))
	}
	return all[0], nil
}
