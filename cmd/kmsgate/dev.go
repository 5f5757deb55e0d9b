package main

import (
	"net"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/dev"
)

func (a *operator) devCommand() *cobra.Command {
	var o dev.Options
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a gateway for development and tests, with a SoftHSM token",
		Long: `Run a gateway for development and tests, with a SoftHSM token.

It creates what DIR lacks: a configuration, the token, the database, a CA, an access key
with full rights, a client key, and a key of each KeySpec except RSA_4096. Once it
accepts connections, it writes DIR/env, which a shell can source. The same DIR serves the
same keys again.`,
		Example: `  kmsgate dev
  kmsgate dev --dir ./kms --listen 127.0.0.1:0`,
		Args: cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if host, _, err := net.SplitHostPort(o.Listen); err != nil || host == "" {
				return cli.Usagef("--listen %q: must be host:port, such as 127.0.0.1:8443, or 0.0.0.0:8443 for all addresses", o.Listen)
			}
			o.Log = cmd.ErrOrStderr()
			o.Ready = func(envFile string, env dev.Environment) { a.printReady(cmd, envFile, env) }
			return dev.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Dir, "dir", "", "`DIR` of the gateway's files (default: a temporary one, removed at the end)")
	cmd.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:8443", "`ADDRESS` (host:port) of the HTTPS server; port 0 takes a free one")
	cmd.Flags().BoolVar(&o.Verbose, "verbose", false, "log every request")
	acceptAuditLossFlag(cmd, &o.AcceptAuditLoss)
	return cmd
}

// printReady prints what a program needs to use the gateway, without its secrets.
func (a *operator) printReady(cmd *cobra.Command, envFile string, env dev.Environment) {
	if a.Output.Value() == cli.OutputTable {
		dev.PrintBanner(cmd.OutOrStdout(), envFile, env)
		return
	}
	ready := struct{ EnvFile, Endpoint, CAFile, AccessKeyId, ClientKeyFile string }{
		envFile, env.Get("KMSGATE_ENDPOINT"), env.Get("KMSGATE_CA_FILE"), env.Get("KMSGATE_ACCESS_KEY_ID"), env.Get("KMSGATE_CLIENT_KEY_FILE"),
	}
	_ = a.Print(cmd, cli.View{Value: ready}) // a closed output does not end the gateway
}
