package main

import (
	"errors"

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
	t.addLocalTo(app, cmd, signs)
	flags := cmd.Flags()
	flags.StringVar(&t.endpoint, "endpoint", "", "`HOST`[:PORT] of a gateway on the network, or of KMS")
	flags.StringVar(&t.caFile, "ca-file", "", "`FILE` with the CA of --endpoint, in PEM (default: the system's)")
	for _, local := range []string{"user", "as-administrator", "socket", "config", "dir"} {
		if cmd.Flag(local) != nil {
			cmd.MarkFlagsMutuallyExclusive("endpoint", local)
		}
	}
}

// addLocalTo is addTo without the flags of an endpoint.
func (t *signTarget) addLocalTo(app *cli.App, cmd *cobra.Command, signs bool) {
	app.Dialer.Register(cmd)
	t.user = &cli.Parameter{Flag: "user", Kind: "NAME", Values: []string{""}, Complete: userNames, Usage: "the user whose policies apply"}
	if signs {
		app.AddFlag(cmd, t.user)
		cmd.Flags().BoolVar(&t.asAdministrator, "as-administrator", false, "sign under no policy of a user")
		cmd.MarkFlagsMutuallyExclusive("user", "as-administrator")
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

// A keyUse holds the flags that name a key version, and where it is used and who uses it.
type keyUse struct {
	target       signTarget
	key, version *cli.Parameter
}

func (u *keyUse) addTo(app *cli.App, cmd *cobra.Command, signs bool) {
	u.key = &cli.Parameter{Flag: "key", Kind: "KEY", Required: true, Complete: keyNames, Usage: "the key: a KeyId, an alias or an ARN"}
	u.version = &cli.Parameter{Flag: "version", Kind: "ID", Values: []string{""}, Usage: "the key's version (default: the newest)"}
	app.AddFlag(cmd, u.key)
	app.AddFlag(cmd, u.version)
	u.target.addTo(app, cmd, signs)
}

// find finds the key, for an algorithm or, if that is empty, for the first that fits it, and calls f.
func (u *keyUse) find(a *cli.App, cmd *cobra.Command, algorithm string, f func(c signer.Client, k signer.Key) error) (err error) {
	c, err := u.target.dial(a, cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Caller.Close()) }()
	k, err := c.Find(cmd.Context(), u.key.Value(), u.version.Value(), algorithm)
	if err != nil {
		return err
	}
	return f(c, k)
}
