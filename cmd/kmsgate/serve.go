package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/serve"
)

func serveCommand() *cobra.Command {
	var path string
	o := appliance.Options{Archiver: backup.NewArchiver}
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the instance that `kmsgate init` has made",
		Long: `Run the instance that 'kmsgate init' has made, until it is told to end by SIGTERM
or SIGINT: requests that have arrived are answered first. The exit status is 0 then,
77 if the token did not take the PIN, which a supervisor must not try again, and 1
for everything else.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadChecked(path)
			if err != nil {
				return err
			}
			o.Logger = c.Log.Logger(cmd.ErrOrStderr())
			return serveAppliance(cmd.Context(), c, o)
		},
	}
	configFlag(cmd, &path)
	acceptAuditLossFlag(cmd, &o.AcceptAuditLoss)
	insistOnPINFlag(cmd, &o.InsistOnPIN)
	return cmd
}

func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "config", "", "the configuration `FILE` (see kmsgate config example)")
	_ = cmd.MarkFlagRequired("config") // there is such a flag
}

func acceptAuditLossFlag(cmd *cobra.Command, accept *bool) {
	cmd.Flags().BoolVar(accept, "accept-audit-loss", false, "go on without audit lines that are gone for good; the log says that you did")
}

func insistOnPINFlag(cmd *cobra.Command, insist *bool) {
	cmd.Flags().BoolVar(insist, "insist-on-pin", false, "use the PIN although the token says that few attempts are left")
}

// loadChecked loads a configuration and checks the files that it names.
func loadChecked(path string) (*config.Config, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	return c, c.Check()
}

func serveAppliance(ctx context.Context, c *config.Config, o appliance.Options) (err error) {
	var api []string
	for _, l := range c.Listeners {
		api = append(api, l.Address)
	}
	listeners, err := serve.Listen(api, c.Metrics.Listen) // first, for an address can be taken
	if err != nil {
		return err
	}
	defer listeners.Close()
	a, err := appliance.Open(ctx, c, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if err := listeners.ListenAdmin(a); err != nil {
		return err
	}
	var addresses []string
	for _, address := range listeners.Addresses() {
		addresses = append(addresses, address.String())
	}
	o.Logger.Info("serving", "instance", c.Instance.ID, "listeners", addresses)
	return listeners.Serve(ctx, a)
}
