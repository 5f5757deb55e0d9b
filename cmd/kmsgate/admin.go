package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
)

// adminCommands are the commands that administer a gateway.
func adminCommands(d cli.Dialer) []*cobra.Command {
	a := &admin{&cli.App{Dialer: d, Output: cli.OutputFlag()}}
	calling := []*cobra.Command{
		a.userCommand(), a.accessKeyCommand(), a.policyCommand(),
		a.keyCommand(), a.aliasCommand(), a.aapCommand(), a.clientKeyCommand(), a.quotaCommand(), a.tokenCommand(), a.doctorCommand(),
	}
	for _, cmd := range calling {
		d.Register(cmd)
	}
	all := append(calling, a.auditCommand())
	for _, cmd := range all {
		a.Output.AddTo(cmd)
	}
	return all
}

// An admin makes the commands.
type admin struct{ *cli.App }
