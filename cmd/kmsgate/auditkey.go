package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/audit"
)

// addAuditKeyTo adds the flag that names the file with an instance's audit key.
func addAuditKeyTo(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "audit-public-key", "", "`FILE` with the instance's audit public key, in PEM (default: $"+auditKeyVariable+")")
}

// auditKey returns the audit key in a file. If the command line names none, it is the one of the
// configuration, or in the environment.
func auditKey(app *cli.App, name string) (audit.PublicKey, error) {
	if name == "" {
		var err error
		if _, name, err = app.Dialer.AuditFiles(); err != nil {
			return nil, err
		}
	}
	if name == "" {
		name = os.Getenv(auditKeyVariable)
	}
	if name == "" {
		return nil, cli.Usagef("which audit key? Without one nothing is proven: give --audit-public-key, or set %s", auditKeyVariable)
	}
	text, err := cli.ReadSmallFile(name)
	if err != nil {
		return nil, cli.UsageError(err)
	}
	key, err := audit.ParsePublicKey(text)
	if err != nil {
		return nil, cli.Usagef("%s: %w", name, err)
	}
	return key, nil
}
