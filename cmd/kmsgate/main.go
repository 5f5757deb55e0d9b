// Command kmsgate serves Alibaba Cloud KMS's signing API on hardware that its
// user owns.
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/version"
	"github.com/kmsgate/kmsgate/internal/dev"
	"github.com/kmsgate/kmsgate/internal/logsink"
	"github.com/kmsgate/kmsgate/internal/memlimit"
	"github.com/kmsgate/kmsgate/internal/signals"
)

// reportTime is how long the process may wait for the reader of its output: a gateway that starts, and
// every command that ends with an error.
const reportTime = 2 * time.Second

func main() {
	os.Exit(run())
}

func run() int {
	harden()
	memlimit.Set(os.DirFS("/"))
	// At the file size limit (ulimit -f), a write fails as it does on a full disk. The signal
	// would end the process.
	signal.Ignore(unix.SIGXFSZ)
	// A call into the token blocks a thread. With one P per core, a goroutine that returns
	// from such a call waits for a P; two per core cut the 99th percentile of signing to a
	// tenth (measured). GOMAXPROCS in the environment wins.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.NumCPU())
	}
	ctx, stop := signals.Context(context.Background())
	defer stop()
	root := rootCommand(new(cli.TargetFlags))
	err := root.ExecuteContext(ctx)
	status, err := dev.Status(err) // the command of kmsgate dev has said why
	if err != nil {
		logsink.Within(reportTime, func() { cli.ReportError(os.Stderr, os.Args[1:], err) })
	}
	return cmp.Or(status, cli.ExitStatus(err))
}

// The groups of the root command's help.
const (
	startGroup   = "start"
	keyGroup     = "keys"
	signGroup    = "sign"
	accessGroup  = "access"
	operateGroup = "operate"
)

// rootCommand makes the whole tree of commands.
func rootCommand(d cli.Dialer) *cobra.Command {
	root := cli.Family("kmsgate", "Alibaba Cloud KMS's signing API on hardware that you own", `kmsgate serves Alibaba Cloud KMS's signing API on hardware that you own.

Start here:
  kmsgate dev                   run a gateway on this machine, with a SoftHSM token
  kmsgate config example        print a configuration for a gateway of your own
  kmsgate COMMAND --help        explain a command, with examples`)
	root.Version = version.String()
	root.SetVersionTemplate("kmsgate {{.Version}}\n")
	root.SilenceUsage, root.SilenceErrors = true, true // the caller prints errors
	app := &cli.App{Dialer: d, Output: cli.OutputFlag()}
	app.Output.AddTo(root)
	admin, auditor, operator, releaser := &admin{app}, &auditor{app}, &operator{app}, &releaser{app}
	for _, g := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{startGroup, "Run a gateway:", []*cobra.Command{
			operator.devCommand(), operator.configCommand(), operator.initCommand(), serveCommand()}},
		{keyGroup, "Keys:", []*cobra.Command{admin.keyCommand(), admin.aliasCommand(), admin.ceremonyCommand()}},
		{signGroup, "Sign files:", []*cobra.Command{
			releaser.signCommand(), releaser.verifySignatureCommand(), releaser.batchCommand(), releaser.publicKeyCommand(), releaser.csrCommand(), releaser.cmsCommand()}},
		{accessGroup, "Who may do what:", []*cobra.Command{
			admin.userCommand(), admin.accessKeyCommand(), admin.policyCommand(), admin.aapCommand(), admin.clientKeyCommand(), admin.quotaCommand()}},
		{operateGroup, "Operate and audit:", []*cobra.Command{
			auditor.auditCommand(), operator.backupCommand(), operator.restoreCommand(), storeCommand(), operator.doctorCommand(), operator.benchCommand(), admin.clockCommand(), operator.tokenCommand(), operator.versionCommand()}},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, cmd := range g.commands {
			cmd.GroupID = g.id
			root.AddCommand(cmd)
		}
	}
	cli.Explain(root)
	return root
}

// harden keeps secrets in this process's memory out of core files, and from other processes of
// the same user. Where the system refuses that, the process runs without it. It locks no memory:
// Go cannot give locked memory back, so the memory of one flood of requests would never be free again.
func harden() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

func (a *operator) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  kmsgate version -o json", Args: cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct{ Version, Go string }{version.String(), runtime.Version()}
			return a.Print(cmd, cli.View{Value: v, Text: fmt.Sprintf("kmsgate %s %s\n", v.Version, v.Go)})
		},
	}
}
