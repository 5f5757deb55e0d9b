package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/serve"
	"github.com/kmsgate/kmsgate/store"
)

func serveCommand() *cobra.Command {
	var path string
	o := appliance.Options{Archiver: backup.NewArchiver}
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the instance that kmsgate init created",
		Long: `Run the instance that kmsgate init created, until SIGTERM or SIGINT. The gateway then
answers the requests that have arrived, and ends with exit status 0.

The exit status is 77 if the token rejects the PIN, or could lock if the gateway tried it.
A supervisor need not start the gateway again: it does not try a rejected PIN twice. A
running gateway that is refused waits for another PIN in token.pin_file.`,
		Example: `  kmsgate serve --config /etc/kmsgate/kmsgate.yaml`,
		Args:    cli.Arguments(""),
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
	cli.InsistOnPINFlag(cmd.Flags(), &o.InsistOnPIN)
	return cmd
}

func acceptAuditLossFlag(cmd *cobra.Command, accept *bool) {
	cmd.Flags().BoolVar(accept, "accept-audit-loss", false, "continue without audit lines that are permanently lost; the log records that you did")
}

func serveAppliance(ctx context.Context, c *config.Config, o appliance.Options) (err error) {
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
	a, err := hardware.Open(ctx, c, o)
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
	var addresses []string
	for _, address := range listeners.Addresses() {
		addresses = append(addresses, address.String())
	}
	o.Logger.Info("serving", "instance", c.Instance.ID, "listeners", addresses)
	return listeners.Serve(ctx, a)
}
