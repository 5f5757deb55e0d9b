package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/dev"
	"github.com/kmsgate/kmsgate/internal/logsink"
	"github.com/kmsgate/kmsgate/internal/signals"
	"github.com/kmsgate/kmsgate/softhsm"
)

func (a *operator) devCommand() *cobra.Command {
	var o dev.Options
	cmd := &cobra.Command{
		Use:   "dev [-- COMMAND…]",
		Short: "Run a gateway for development and tests, with a SoftHSM token",
		Long: `Run a gateway for development and tests, with a SoftHSM token.

It creates what DIR lacks: a configuration, the token, the database, a CA, an access key
with full rights, a client key, and a key of each KeySpec except RSA_4096. Once it
accepts connections, it writes DIR/env, which a shell can source. The same DIR serves the
same keys again.

With a COMMAND it runs that, with the variables of DIR/env in its environment, and ends
with the command's exit status.`,
		Example: `  kmsgate dev
  kmsgate dev --dir ./kms --listen 127.0.0.1:0
  kmsgate dev --listen 127.0.0.1:0 -- pytest`,
		Args: cli.Arguments("[COMMAND…]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.Check(); err != nil {
				return cli.UsageError(err)
			}
			if err := o.SetCommand(args, cmd.ArgsLenAtDash()); err != nil {
				return cli.UsageError(err)
			}
			if _, err := softhsm.Module(); err != nil { // before anything is created
				return err
			}
			return a.runDev(cmd, o)
		},
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

// runDev runs the gateway until a signal or its command ends it, or its terminal is gone.
func (a *operator) runDev(cmd *cobra.Command, o dev.Options) error {
	signals.SurviveBrokenPipes()
	log := config.Default().Log
	sink := logsink.New(cmd.ErrOrStderr(), log.DroppedLine)
	defer sink.Close(logsink.FlushTime)
	ctx, stop := signals.WithTerminal(cmd.Context())
	defer stop()
	guardSignals(ctx, log.Quiet(sink))
	o.Log = sink
	o.Appliance = hardware.Options(appliance.Options{Archiver: backup.NewArchiver, LogSink: sink})
	o.Token = func(dir string) config.Token { return config.Token{SoftHSM: filepath.Join(dir, "softhsm")} }
	o.About = aboutProgram(o.Token(""))
	if o.Command == nil { // otherwise the output is the command's
		o.Ready = func(envFile string, env dev.Environment, notices []string) {
			logsink.Within(reportTime, func() { a.printReady(cmd, &o, envFile, env, notices) })
		}
	}
	return dev.Run(ctx, o)
}

// printReady prints what a program needs to use the gateway, without its secrets.
func (a *operator) printReady(cmd *cobra.Command, o *dev.Options, envFile string, env dev.Environment, notices []string) {
	if a.Output.Value() == cli.OutputTable {
		o.PrintBanner(cmd.OutOrStdout(), envFile, env, notices)
		return
	}
	ready := struct {
		EnvFile, Endpoint, CAFile, AccessKeyId, ClientKeyFile string
		Notices                                               []string `json:",omitempty"`
	}{
		envFile, env.Get("KMSGATE_ENDPOINT"), env.Get("KMSGATE_CA_FILE"), env.Get("KMSGATE_ACCESS_KEY_ID"), env.Get("KMSGATE_CLIENT_KEY_FILE"), notices,
	}
	_ = a.Print(cmd, cli.View{Value: ready}) // a closed output does not end the gateway
}
