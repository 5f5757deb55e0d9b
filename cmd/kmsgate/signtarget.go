package main

import (
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
)

// signTarget are the flags that say where a key is used, and who uses it.
type signTarget struct {
	endpoint, caFile string
	user             *cli.Parameter
	asAdministrator  bool
}

// addTo adds the flags: those of a gateway, of an endpoint and, if signs, of the person's role.
func (t *signTarget) addTo(app *cli.App, cmd *cobra.Command, signs bool) {
	app.Dialer.Register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&t.endpoint, "endpoint", "", "`HOST`[:PORT] of a gateway on the network, or of KMS")
	flags.StringVar(&t.caFile, "ca-file", "", "`FILE` with the CA of --endpoint, in PEM (default: the system's)")
	t.user = &cli.Parameter{Flag: "user", Kind: "NAME", Values: []string{""}, Complete: userNames, Usage: "the user whose policies apply"}
	if signs {
		app.AddFlag(cmd, t.user)
		flags.BoolVar(&t.asAdministrator, "as-administrator", false, "sign under no policy of a user")
		cmd.MarkFlagsMutuallyExclusive("user", "as-administrator")
	}
	for _, local := range []string{"user", "as-administrator", "socket", "config", "dir"} {
		if cmd.Flag(local) != nil {
			cmd.MarkFlagsMutuallyExclusive("endpoint", local)
		}
	}
}

func (t *signTarget) dial(app *cli.App, cmd *cobra.Command) (signer.Client, error) {
	if t.caFile != "" && t.endpoint == "" {
		return signer.Client{}, cli.Usagef("--ca-file needs --endpoint")
	}
	c := signer.Client{OnBehalfOf: t.user.Value(), AsAdministrator: t.asAdministrator}
	var err error
	if t.endpoint != "" {
		c.Caller, err = target.Target{Endpoint: t.endpoint, CAFile: t.caFile}.Dial(cmd.Context(), cmd.ErrOrStderr())
	} else {
		c.Caller, err = app.Dialer.Dial(cmd)
	}
	return c, err
}
