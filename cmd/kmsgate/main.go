// Command kmsgate serves Alibaba Cloud KMS's signing API on hardware that its
// user owns.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/version"
	"github.com/kmsgate/kmsgate/hsm/token"
)

func main() {
	os.Exit(run())
}

func run() int {
	harden()
	// A file that may not grow any more (ulimit -f) is an error of the write, as a full
	// disk is, and does not end the process.
	signal.Ignore(unix.SIGXFSZ)
	// A call into the token holds a thread; with as many Ps as cores, what
	// returns from one waits for a P. Twice as many cut the 99th percentile of
	// signing tenfold (measured). GOMAXPROCS in the environment wins.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.NumCPU())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := &cobra.Command{
		Use:           "kmsgate",
		Short:         "Alibaba Cloud KMS's signing API on hardware that you own",
		SilenceUsage:  true, // an error is not a question about usage
		SilenceErrors: true,
	}
	root.AddCommand(devCommand(), initCommand(), serveCommand(), configCommand(), versionCommand(), backupCommand(new(cli.TargetFlags)), restoreCommand())
	root.AddCommand(adminCommands(new(cli.TargetFlags))...)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprint(os.Stderr, printable.Lines("kmsgate: "+strings.ReplaceAll(err.Error(), "\t", "  ")))
		if errors.Is(err, token.ErrPIN) {
			return exitPIN
		}
		return 1
	}
	return 0
}

// exitPIN is the exit status when the token did not take the PIN. A supervisor
// must not start the program again for it: each attempt brings the token nearer
// to being locked. (It is EX_NOPERM of sysexits.h.)
const exitPIN = 77

// harden keeps secrets in this process's memory from being written to a core
// file or to swap, or read by another process of the same user. Where the system
// does not allow it the process goes on without.
func harden() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	// Only if there is no limit: with one, memory would run out at some point.
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil && limit.Cur == unix.RLIM_INFINITY {
		_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "kmsgate %s %s\n", version.String(), runtime.Version())
		},
	}
}
