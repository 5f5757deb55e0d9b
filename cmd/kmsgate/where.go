package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
)

// where is which gateway a command line means.
type where struct{ target.Target }

func (w *where) register(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&w.Socket, "socket", "", "the admin socket of a gateway that runs (default: $"+target.SocketVariable+")")
	flags.StringVar(&w.Config, "config", "", "the configuration of a gateway, whether it runs or not")
	flags.StringVar(&w.Dir, "dir", "", "the directory of a kmsgate dev, whether it runs or not")
	cmd.MarkFlagsMutuallyExclusive("socket", "config", "dir")
}

func (w *where) dial(cmd *cobra.Command) (caller, error) {
	return w.Dial(cmd.Context(), cmd.ErrOrStderr())
}

func (w *where) auditFiles() (log, key string, err error) { return w.AuditFiles() }

func (w *where) configuration() (*config.Config, error) { return w.Configuration() }
