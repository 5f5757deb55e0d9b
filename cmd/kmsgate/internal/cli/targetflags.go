package cli

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
)

// TargetFlags are the [Dialer] that asks the command line: --socket, --config and --dir.
type TargetFlags struct{ target target.Target }

// Register adds the flags.
func (f *TargetFlags) Register(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.target.Socket, "socket", "", "the admin socket of a gateway that runs (default: $"+target.SocketVariable+")")
	flags.StringVar(&f.target.Config, "config", "", "the configuration of a gateway, whether it runs or not")
	flags.StringVar(&f.target.Dir, "dir", "", "the directory of a kmsgate dev, whether it runs or not")
	cmd.MarkFlagsMutuallyExclusive("socket", "config", "dir")
}

// Dial calls [target.Target.Dial].
func (f *TargetFlags) Dial(cmd *cobra.Command) (target.Caller, error) {
	return f.target.Dial(cmd.Context(), cmd.ErrOrStderr())
}

// AuditFiles calls [target.Target.AuditFiles].
func (f *TargetFlags) AuditFiles() (log, key string, err error) { return f.target.AuditFiles() }

// Configuration calls [target.Target.Configuration].
func (f *TargetFlags) Configuration() (*config.Config, error) { return f.target.Configuration() }
