package main

import "github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"

// Each of these makes some of the commands.
type (
	admin    struct{ *cli.App } // keys, and who may use them
	auditor  struct{ *cli.App } // the audit log
	operator struct{ *cli.App } // instances and tokens
	releaser struct{ *cli.App } // signatures of files
)
