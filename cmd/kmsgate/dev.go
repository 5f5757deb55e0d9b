package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/dev"
)

func devCommand() *cobra.Command {
	var o dev.Options
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a gateway on a SoftHSM token of its own, for development and tests",
		Long: `Run a gateway on a SoftHSM token of its own, for development and tests.

It makes what DIR lacks: a configuration, the token, the database, a CA, an
access key with full rights, a client key, and a key of each KeySpec. When it accepts
connections it writes DIR/env, which a shell can source. The same DIR serves the
same keys again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Log = cmd.ErrOrStderr()
			o.Ready = func(envFile string, env dev.Environment) { dev.PrintBanner(cmd.OutOrStdout(), envFile, env) }
			return dev.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Dir, "dir", "", "where everything is kept (default: a temporary directory, removed at the end)")
	cmd.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:8443", "address and port to serve HTTPS on; port 0 takes a free one")
	cmd.Flags().BoolVar(&o.Verbose, "verbose", false, "log every request")
	acceptAuditLossFlag(cmd, &o.AcceptAuditLoss)
	return cmd
}
