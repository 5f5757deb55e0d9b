// Command bench measures a kmsgate dev with kmsgate bench, and beside it the floor (package floor) and
// the bare token, on the same machine in the same run. The rounds alternate, so that other load
// on the machine affects all three alike. The best round of each row counts.
//
//	bench -kmsgate bin/kmsgate -floor bin/floor                             print tables
//	bench -kmsgate bin/kmsgate -floor bin/floor -write docs/performance.md  also write them to the page
//	bench … -rows '^sign EC_P256' -time 1s -rounds 1                        a short run
//
// It fails only if it cannot measure, whatever the figures are.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	kmsgate, floor string
	dir            string
	write          string
	rows           *regexp.Regexp
	rounds         int
	time, warmUp   time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.kmsgate, "kmsgate", "bin/kmsgate", "`PATH` of kmsgate")
	flag.StringVar(&o.floor, "floor", "bin/floor", "`PATH` of the floor")
	flag.StringVar(&o.dir, "dir", "/var/tmp", "`DIR` on a disk, for a temporary directory with the token and the audit log")
	flag.StringVar(&o.write, "write", "", "`FILE` whose tables to replace")
	rows := flag.String("rows", "", "`PATTERN` of the rows to measure, such as 'sign EC_P256, 32 callers'")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each row is measured: `N`")
	flag.DurationVar(&o.time, "time", 4*time.Second, "how long one measurement takes")
	flag.DurationVar(&o.warmUp, "warm-up", time.Second, "the load before each measurement")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.rows, err = regexp.Compile(*rows); err == nil {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "kmsgate-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	m, err := examine(ctx, o, dir)
	if err != nil {
		return err
	}
	gateway, err := start(ctx, filepath.Join(dir, "gateway"), o.kmsgate, "dev", "--listen", "127.0.0.1:0", "--dir")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gateway.stop()) }()
	floor, err := start(ctx, filepath.Join(dir, "floor"), o.floor, "--dir")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.stop()) }()
	if m.module, err = moduleOf(ctx, o, gateway); err != nil {
		return err
	}
	b := bench{options: o, gateway: gateway, floor: floor}
	results, err := b.measure(ctx)
	if err != nil {
		return err
	}
	text := m.String() + "\n" + tables(results)
	fmt.Print(text)
	if o.write == "" {
		return nil
	}
	return replaceTables(o.write, text)
}
