package main

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
)

func (a *operator) tokenCommand() *cobra.Command {
	bare := new(bareToken)
	cmd := a.Family("token", "Examine the token of a gateway, or a new token", `Examine the token of a gateway, running or stopped, or a new token. Name a new token with
--module, --pin-file, and --label or --serial. The commands leave nothing behind in it.`,
		a.tokenTask(bare, cli.Task{
			Verb: "info", Short: "Show the module, the token, and which KeySpecs work",
			Long: `Show the module, the token, and which KeySpecs work. The command tries each with a key
that exists only in its session.`,
			Example: "kmsgate token info\nkmsgate token info --module /usr/lib/softhsm/libsofthsm2.so --label new --pin-file pin -o json",
			Flags:   []*cli.Parameter{{Name: "Mechanisms", Flag: "mechanisms", Kind: "bool", Usage: "also show the token's mechanisms"}},
			Calls:   describeToken,
		}, surveyed(viewOfSurvey)),
		a.tokenTask(bare, cli.Task{
			Verb: "list", Short: "List every object in the token, and its record",
			Example: "kmsgate token list",
			Calls:   listObjects,
		}, listBareObjects),
		a.tokenTask(bare, cli.Task{
			Verb: "test", Short: "Sign with every key version, and show how long that takes",
			Long: `Sign with every key version, and show how many milliseconds one signature takes. The
digests are random; the signatures are verified and shown to nobody. Keys that are
disabled or pending deletion are tried as well. A new token is tried with keys that exist
only in the session.`,
			Example: "kmsgate token test --count 100",
			Flags:   []*cli.Parameter{{Name: "Count", Flag: "count", Kind: "N", Usage: "signatures with each key version: 1 to 100", Values: []string{"10"}, Read: readCount}},
			Calls:   testKeys,
		}, surveyed(viewOfTrials)))
	bare.register(cmd)
	return cmd
}

// An inspection examines a token that belongs to no gateway.
type inspection func(ctx context.Context, i hsm.Inspector, parameters map[string]string) (cli.View, error)

// tokenTask makes a command that asks a gateway. It examines the token itself if the command
// line names one, or names a configuration whose instance was not created yet.
func (a *operator) tokenTask(bare *bareToken, t cli.Task, inspect inspection) *cobra.Command {
	cmd := a.Command(t)
	askGateway := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if bare.module != "" {
			if err := bare.check(cmd); err != nil {
				return err
			}
			return a.inspectBare(cmd, t, args, bare.configuration(), inspect)
		}
		err := askGateway(cmd, args)
		if !errors.Is(err, appliance.ErrNotInitialized) {
			return err
		}
		c, configErr := a.Dialer.Configuration()
		if configErr != nil || c == nil || c.Token.SoftHSM != "" { // init creates such a token
			return err
		}
		return a.inspectBare(cmd, t, args, c.Token, inspect)
	}
	return cmd
}

func (a *operator) inspectBare(
	cmd *cobra.Command, t cli.Task, args []string, token config.Token, inspect inspection,
) error {
	parameters, err := t.Parameters(cmd, args)
	if err != nil {
		return err
	}
	logger := config.Log{}.Quiet(cmd.ErrOrStderr())
	return hardware.InspectToken(token, cli.InsistsOnPIN(cmd), logger, func(i hsm.Inspector) error {
		v, err := inspect(cmd.Context(), i, parameters)
		return errors.Join(a.Print(cmd, v), err)
	})
}

// A bareToken holds the flags that name a token without a gateway.
type bareToken struct{ module, label, serial, pinFile, userType string }

func (b *bareToken) register(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&b.module, "module", "", "`PATH` of the PKCS#11 module (a shared library) of a new token")
	flags.StringVar(&b.label, "label", "", "`LABEL` of that token")
	flags.StringVar(&b.serial, "serial", "", "serial `NUMBER` of that token, instead of its label")
	flags.StringVar(&b.pinFile, "pin-file", "", "`FILE` with the PIN of that token's user, which only its owner can access")
	flags.StringVar(&b.userType, "user-type", "user", "`TYPE` of the PIN's owner: user, or crypto_user on Thales Luna")
	cmd.MarkFlagsMutuallyExclusive("label", "serial")
	cmd.MarkFlagsRequiredTogether("module", "pin-file")
}

// check refuses a command line that names a gateway as well.
func (b *bareToken) check(cmd *cobra.Command) error {
	if b.label == "" && b.serial == "" {
		return cli.Usagef("--module needs --label or --serial")
	}
	if b.userType != "user" && b.userType != "crypto_user" {
		return cli.Usagef("--user-type %q: must be user or crypto_user", b.userType)
	}
	for _, gateway := range []string{"socket", "config", "dir"} {
		if f := cmd.Flag(gateway); f != nil && f.Changed {
			return cli.Usagef("--module and --%s exclude each other: a gateway names its token", gateway)
		}
	}
	return nil
}

func (b *bareToken) configuration() config.Token {
	return config.Token{Module: b.module, Label: b.label, Serial: b.serial, PINFile: b.pinFile, UserType: b.userType}
}

// surveyed returns an inspection that surveys a token.
func surveyed(show func(s hsm.Survey, parameters map[string]string) (cli.View, error)) inspection {
	return func(ctx context.Context, i hsm.Inspector, parameters map[string]string) (cli.View, error) {
		s, err := i.Survey(ctx)
		if err != nil {
			return cli.View{}, err
		}
		return show(s, parameters)
	}
}

func listObjects(ctx context.Context, c target.Caller, _ map[string]string) (cli.View, error) {
	var answer kms.ListTokenObjectsResponse
	if err := c.Call(ctx, "ListTokenObjects", nil, &answer); err != nil {
		return cli.View{}, err
	}
	objects := cli.ViewOfList(answer.Objects.Object, "Use", "Class", "KeySpec", "KeyId", "KeyVersionId", "KeyState", "Aliases", "Label", "ObjectId", "Handle", "OtherPublicKey")
	deviations := cli.ViewOfList(answer.Deviations.Deviation, "Use", "KeyId", "KeyVersionId", "KeyState", "KeySpec", "Aliases", "PrivateKeys")
	tables := [][][]string{objects.Rows}
	if len(answer.Deviations.Deviation) > 0 {
		tables = append(tables, [][]string{{"The token does not hold exactly one private key of these records (kmsgate doctor says what to do):"}}, deviations.Rows)
	}
	text, err := cli.Align(tables...)
	return cli.View{Value: map[string]any{"Objects": objects.Value, "Deviations": deviations.Value}, Text: text}, err
}

// A bareObject is an object in a token that belongs to no gateway.
type bareObject struct {
	Class    string
	KeyType  string
	KeySpec  hsm.KeySpec
	Label    string
	ObjectId string
	Handle   uint
	Purpose  string
}

func listBareObjects(ctx context.Context, i hsm.Inspector, _ map[string]string) (cli.View, error) {
	objects, err := i.Objects(ctx)
	if err != nil {
		return cli.View{}, err
	}
	var all []bareObject
	for _, o := range objects {
		all = append(all, bareObject{o.Class, o.KeyType, o.KeySpec, o.Label, hex.EncodeToString(o.ID), o.Handle, o.Purpose})
	}
	return cli.ViewOfList(all), nil
}
