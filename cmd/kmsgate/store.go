package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/store"
)

func storeCommand() *cobra.Command {
	var path string
	var o appliance.Options
	dump := &cobra.Command{
		Use:   "dump --config FILE",
		Short: "Print the records of the database, which the token unseals",
		Long: `Print the records of the database, each as a line of JSON with its bucket and its id.
Stop the gateway first, and run the command as the gateway's user. The command needs the
instance's token, because the database is sealed.

No secret is printed: AccessKeySecrets and software keys are sealed a second time.`,
		Example: `  kmsgate store dump --config /etc/kmsgate/kmsgate.yaml > records.json`,
		Args:    cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(path)
			if err == nil {
				err = target.CheckOwner(c.Directory)
			}
			if err == nil {
				err = c.Check()
			}
			if err != nil {
				return err
			}
			o.Logger = c.Log.Quiet(cmd.ErrOrStderr())
			return dumpRecords(cmd.Context(), c, o, cmd.OutOrStdout())
		},
	}
	configFlag(dump, &path)
	cli.InsistOnPINFlag(dump.Flags(), &o.InsistOnPIN)
	return cli.Family("store", "Look into the database", "", dump)
}

// dumpRecords writes every record of a stopped gateway to w.
func dumpRecords(ctx context.Context, c *config.Config, o appliance.Options, w io.Writer) (err error) {
	a, err := hardware.OpenRecords(ctx, c, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	out := bufio.NewWriter(w)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	err = store.Dump(a.Store.Now(), func(bucket, id string, record any) error {
		return encoder.Encode(struct {
			Bucket, Id string
			Record     any
		}{bucket, id, record})
	})
	return errors.Join(err, out.Flush())
}
