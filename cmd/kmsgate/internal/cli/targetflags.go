package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/internal/config"
)

// TargetFlags are the [Dialer] of the flags --socket, --config and --dir. They include
// --insist-on-pin, because a command that finds the gateway stopped logs in to its token.
type TargetFlags struct{ target target.Target }

// Register adds the flags.
func (f *TargetFlags) Register(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.target.Socket, "socket", "", "admin socket `PATH` of a running gateway (default: $"+target.SocketVariable+")")
	flags.StringVar(&f.target.Config, "config", "", "configuration `FILE` of a gateway, running or stopped")
	flags.StringVar(&f.target.Dir, "dir", "", "`DIR` of a kmsgate dev, running or stopped")
	cmd.MarkFlagsMutuallyExclusive("socket", "config", "dir")
	InsistOnPINFlag(flags, &f.target.InsistOnPIN)
}

const insistOnPIN = "insist-on-pin"

// InsistOnPINFlag adds the flag of a command that can log in to a token.
func InsistOnPINFlag(flags *pflag.FlagSet, insist *bool) {
	flags.BoolVar(insist, insistOnPIN, false, "log in although the token refused this PIN before, or has one attempt left")
}

// InsistsOnPIN reports whether the command line has that flag.
func InsistsOnPIN(cmd *cobra.Command) bool {
	f := cmd.Flag(insistOnPIN)
	return f != nil && f.Value.String() == "true"
}

// Dial calls [target.Target.Dial].
func (f *TargetFlags) Dial(cmd *cobra.Command) (target.Caller, error) {
	return f.target.Dial(cmd.Context(), cmd.ErrOrStderr())
}

// DialRunning calls [target.Target.DialRunning].
func (f *TargetFlags) DialRunning(*cobra.Command) (target.Caller, error) {
	return f.target.DialRunning()
}

// AuditFiles calls [target.Target.AuditFiles].
func (f *TargetFlags) AuditFiles() (log, key string, err error) { return f.target.AuditFiles() }

// Configuration calls [target.Target.Configuration].
func (f *TargetFlags) Configuration() (*config.Config, error) { return f.target.Configuration() }
