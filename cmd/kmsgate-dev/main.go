// Command kmsgate-dev is kmsgate dev with keys in software: it needs no PKCS#11 module and no C
// library, and runs on macOS as well. It is for tests.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/dev"
	"github.com/kmsgate/kmsgate/internal/logsink"
	"github.com/kmsgate/kmsgate/internal/signals"
	"github.com/kmsgate/kmsgate/internal/softwarekeys"
)

const usage = `Run a gateway for tests, with keys in software. Nothing protects them.

Usage: kmsgate-dev [flags] [-- COMMAND…]

It creates what DIR lacks, as kmsgate dev does. Once it accepts connections, it writes
DIR/env, which a shell can source. With a COMMAND it runs that, with the variables of
DIR/env in its environment, and ends with the command's exit status.

`

func main() { os.Exit(run(os.Args[1:])) }

const (
	exitUsage  = 2               // the exit status for a wrong command line, as that of kmsgate
	bannerTime = 2 * time.Second // how long the start may wait for the reader of standard output
)

func run(args []string) int {
	var o dev.Options
	flags := pflag.NewFlagSet("kmsgate-dev", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage, "Flags:\n", flags.FlagUsagesWrapped(90)) }
	o.AddFlags(flags)
	err := flags.Parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = o.Check()
	}
	if err == nil {
		err = o.SetCommand(flags.Args(), flags.ArgsLenAtDash())
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "kmsgate-dev: %v (see kmsgate-dev --help)\n", err)
		return exitUsage
	}
	return serve(o)
}

// serve runs a gateway until a signal or its command ends it, and returns the exit status.
func serve(o dev.Options) int {
	signals.SurviveBrokenPipes()
	sink := logsink.New(os.Stderr, config.Default().Log.DroppedLine)
	defer sink.Close(logsink.FlushTime)
	fmt.Fprintln(sink, "kmsgate-dev: for tests only: nothing protects the keys")
	if o.Command == nil {
		o.Ready = func(envFile string, env dev.Environment, notices []string) {
			logsink.Within(bannerTime, func() { o.PrintBanner(os.Stdout, envFile, env, notices) })
		}
	}
	o.Log = sink
	o.Appliance.Device, o.Appliance.LogSink = softwarekeys.Device, sink
	ctx, stop := signals.Context(context.Background())
	defer stop()
	ctx, stopTerminal := signals.WithTerminal(ctx)
	defer stopTerminal()
	status, err := dev.Status(dev.Run(ctx, o))
	if err != nil {
		fmt.Fprintf(sink, "kmsgate-dev: %v\n", err)
		return cmp.Or(status, 1)
	}
	return status
}
