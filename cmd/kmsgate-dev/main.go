// Command kmsgate-dev is kmsgate dev with keys in software: it needs no PKCS#11 module and no C
// library, and runs on macOS as well. It is for tests.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/kmsgate/kmsgate/internal/dev"
	"github.com/kmsgate/kmsgate/internal/softwarekeys"
)

const usage = `Run a gateway for tests, with keys in software. Nothing protects them.

Usage: kmsgate-dev [flags] [-- COMMAND…]

It creates what DIR lacks, as kmsgate dev does. Once it accepts connections, it writes
DIR/env, which a shell can source. With a COMMAND it runs that, with the variables of
DIR/env in its environment, and ends with the command's exit status.

`

func main() { os.Exit(run(os.Args[1:])) }

// exitUsage is the exit status for a wrong command line, as that of kmsgate.
const exitUsage = 2

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
	fmt.Fprintln(os.Stderr, "kmsgate-dev: for tests only: nothing protects the keys")
	if o.Command == nil {
		o.Ready = func(envFile string, env dev.Environment, notices []string) {
			o.PrintBanner(os.Stdout, envFile, env, notices)
		}
	}
	o.Log = os.Stderr
	o.Appliance.Device = softwarekeys.Device
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once, unless a command runs, which gets it
	status, err := dev.Status(dev.Run(ctx, o))
	if err != nil {
		fmt.Fprintf(os.Stderr, "kmsgate-dev: %v\n", err)
		return cmp.Or(status, 1)
	}
	return status
}
