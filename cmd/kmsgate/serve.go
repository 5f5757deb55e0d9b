package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/version"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/logsink"
	"github.com/kmsgate/kmsgate/internal/memlimit"
	"github.com/kmsgate/kmsgate/internal/serve"
	"github.com/kmsgate/kmsgate/internal/signals"
	"github.com/kmsgate/kmsgate/softhsm"
	"github.com/kmsgate/kmsgate/store"
)

func serveCommand() *cobra.Command {
	s := service{options: appliance.Options{Archiver: backup.NewArchiver}}
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the instance that kmsgate init created",
		Long: `Run the instance that kmsgate init created, until SIGTERM or SIGINT. The gateway then
answers the requests that have arrived, and ends with exit status 0.

SIGHUP makes it read FILE again. It applies the quotas and the log level, and reads the
certificate. Its log names other changes, which need a restart.

The exit status is 77 if the token refuses the PIN, or if one more wrong PIN could lock
the token. Restarting does not help: the gateway never tries a refused PIN twice. If the
token refuses the PIN while the gateway runs, it waits for another PIN in token.pin_file.`,
		Example: `  kmsgate serve --config /etc/kmsgate/kmsgate.yaml`,
		Args:    cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			signals.SurviveBrokenPipes()
			s.hangups = signals.Hangups() // from now on: SIGHUP must not end the start either
			if s.config, err = loadChecked(s.path); err != nil {
				return err
			}
			sink := logsink.New(cmd.ErrOrStderr(), s.config.Log.DroppedLine)
			defer sink.Close(logsink.FlushTime)
			s.options.LogSink = sink
			s.options.Logger, s.level = s.config.Log.Logger(sink)
			s.notices = s.config.Log.Notices(sink)
			return s.run(cmd.Context())
		},
	}
	configFlag(cmd, &s.path)
	acceptAuditLossFlag(cmd, &s.options.AcceptAuditLoss)
	cmd.Flags().BoolVar(&s.options.AcceptStoreRollback, "accept-store-rollback", false,
		"continue with a database that lacks the last changes; the log records that you did")
	cli.InsistOnPINFlag(cmd.Flags(), &s.options.InsistOnPIN)
	return cmd
}

func acceptAuditLossFlag(cmd *cobra.Command, accept *bool) {
	cmd.Flags().BoolVar(accept, "accept-audit-loss", false, "continue without audit lines that are permanently lost; the log records that you did")
}

// A service is a run of kmsgate serve.
type service struct {
	path    string // of the configuration
	config  *config.Config
	options appliance.Options
	level   *slog.LevelVar // of the options' logger
	notices *slog.Logger   // logs whatever the level
	hangups <-chan os.Signal
}

// run serves until ctx is done. It logs the signal that ended it, and how long it ran.
func (s *service) run(ctx context.Context) error {
	began, logger := time.Now(), s.notices
	logged := make(chan struct{})
	unregister := context.AfterFunc(ctx, func() {
		defer close(logged)
		logger.Info("stopping", "signal", signals.EndedBy(ctx))
	})
	err := s.serve(ctx)
	if unregister() {
		return err // no signal came
	}
	<-logged
	about := []any{"signal", signals.EndedBy(ctx), "uptime", time.Since(began).Round(time.Second)}
	if errors.Is(err, context.Canceled) { // during the start
		about, err = append(about, "err", err), nil
	}
	logger.Info("stopped", about...)
	return err
}

func (s *service) serve(ctx context.Context) (err error) {
	c, logger := s.config, s.options.Logger
	var api []string
	for _, l := range c.Listeners {
		api = append(api, l.Address)
	}
	// Before the appliance: another process may use an address.
	listeners, err := serve.Listen(c.Directory, api, c.Metrics.Listen)
	if err != nil {
		return err
	}
	defer listeners.Close()
	guardSignals(ctx, logger)
	warnOfSwap(logger, os.DirFS("/"))
	a, err := hardware.Open(ctx, c, s.options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	for k := range a.Store.Now().Keys().All() {
		if k.Origin == store.OriginSeed {
			return fmt.Errorf("key %s has a private key from the seed of a kmsgate dev, which others have, too: run kmsgate dev, or create an instance of your own (kmsgate init)", k.KeyId)
		}
	}
	if err := listeners.ListenAdmin(a); err != nil {
		return err
	}
	load := func() (*config.Config, error) { return loadChecked(s.path) }
	reloader := serve.NewReloader(a, load, logger, s.level)
	return listeners.Serve(ctx, a, func(about []any) {
		s.notices.Info("serving", append(about, aboutProgram(c.Token)...)...)
		go reloader.Run(ctx, s.hangups)
	})
}

// guardSignals keeps the token's module from taking signals.
func guardSignals(ctx context.Context, logger *slog.Logger) {
	signals.Guard(ctx, func(name string) {
		logger.Warn("the PKCS#11 module had replaced the handler of a signal; the gateway has restored it", "signal", name)
	})
}

// warnOfSwap logs that secrets in memory can reach a disk, if they can. root is the root directory.
func warnOfSwap(logger *slog.Logger, root fs.FS) {
	if memlimit.Swappable(root) {
		logger.Warn("this machine can swap the gateway's memory out to a disk, and secrets with it " +
			"(set MemorySwapMax=0 for the service, as docs/kmsgate.service does, or run swapoff -a)")
	}
}

// aboutProgram returns attributes for the log's line about a start: the program and its module.
func aboutProgram(t config.Token) []any {
	module := t.Module
	if t.SoftHSM != "" {
		module, _ = softhsm.Module() // it was found before
	}
	return []any{"module", module, "version", version.String(), "go", runtime.Version()}
}
