package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

func (a *admin) tokenCommand() *cobra.Command {
	bare := new(bareToken)
	cmd := cli.Family("token", "Look into the token, or try one that is new here", `Look into the token: that of a gateway, whether it runs or not, or one that is new
here and is named by --module, --label or --serial, and --pin-file. Nothing is left
in it.`,
		a.tokenTask(bare, cli.Task{
			Verb: "info", Short: "Show what the module and the token are, and which KeySpecs will work",
			Long: `Show what the module and the token are, and which KeySpecs will work. It tries
them, with keys that end with its session.`,
			Example: "kmsgate token info\nkmsgate token info --module /usr/lib/softhsm/libsofthsm2.so --label new --pin-file pin -o json",
			Flags:   []*cli.Parameter{{Name: "Mechanisms", Flag: "mechanisms", Kind: "bool", Usage: "show the token's mechanisms, too"}},
			Calls:   describeToken,
		}, surveyed(viewOfSurvey)),
		a.tokenTask(bare, cli.Task{
			Verb: "list", Short: "List every object in the token, with its record",
			Example: "kmsgate token list",
			Calls:   listObjects,
		}, listBareObjects),
		a.tokenTask(bare, cli.Task{
			Verb: "test", Short: "Sign with every key version, and tell how fast",
			Long: `Sign with every key version, and tell how fast: in milliseconds for one signature.
The signatures are checked, are of nobody's digests, and are shown to nobody. Keys
that are disabled or to be deleted are tried, too. On a token that is new here it
tells the same of keys that end with its session.`,
			Example: "kmsgate token test --count 100",
			Flags:   []*cli.Parameter{{Name: "Count", Flag: "count", Kind: "N", Usage: "how many signatures each: 1 to 100", Values: []string{"10"}, Read: readCount}},
			Calls:   testKeys,
		}, surveyed(viewOfTrials)))
	bare.register(cmd)
	return cmd
}

// A look is what a command does with a token that no gateway has.
type look func(ctx context.Context, i hsm.Inspector, parameters map[string]string) (cli.View, error)

// tokenTask makes a command that asks a gateway, or looks into a token itself if
// the line names one, or a configuration whose instance is not there yet.
func (a *admin) tokenTask(bare *bareToken, t cli.Task, look look) *cobra.Command {
	cmd := a.Command(t)
	askGateway := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if bare.module != "" {
			if err := bare.check(cmd); err != nil {
				return err
			}
			return a.look(cmd, t, args, bare.configuration(), look)
		}
		err := askGateway(cmd, args)
		if !errors.Is(err, appliance.ErrNotInitialized) {
			return err
		}
		c, configErr := a.Dialer.Configuration()
		if configErr != nil || c == nil || c.Token.SoftHSM != "" { // that one is made with the instance
			return err
		}
		return a.look(cmd, t, args, c.Token, look)
	}
	return cmd
}

func (a *admin) look(cmd *cobra.Command, t cli.Task, args []string, where config.Token, look look) error {
	parameters, err := t.Parameters(cmd, args)
	if err != nil {
		return err
	}
	logger := config.Log{}.Quiet(cmd.ErrOrStderr())
	return appliance.LookAtToken(where, logger, func(i hsm.Inspector) error {
		v, err := look(cmd.Context(), i, parameters)
		return errors.Join(a.Print(cmd, v), err)
	})
}

// A bareToken is a token that a command line names.
type bareToken struct{ module, label, serial, pinFile, userType string }

func (b *bareToken) register(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&b.module, "module", "", "the PKCS#11 module of a token that is new here, a shared library")
	flags.StringVar(&b.label, "label", "", "that token's label; or")
	flags.StringVar(&b.serial, "serial", "", "its serial number")
	flags.StringVar(&b.pinFile, "pin-file", "", "a file with the PIN of its user, that only its owner can read")
	flags.StringVar(&b.userType, "user-type", "user", "whose PIN it is: user, or crypto_user (of Thales Luna)")
	cmd.MarkFlagsMutuallyExclusive("label", "serial")
	cmd.MarkFlagsRequiredTogether("module", "pin-file")
}

// check refuses a line that names a gateway, too.
func (b *bareToken) check(cmd *cobra.Command) error {
	for _, gateway := range []string{"socket", "config", "dir"} {
		if f := cmd.Flag(gateway); f != nil && f.Changed {
			return fmt.Errorf("--module names a token that is new here, and --%s a gateway, which has its own: give one of them", gateway)
		}
	}
	return nil
}

func (b *bareToken) configuration() config.Token {
	return config.Token{Module: b.module, Label: b.label, Serial: b.serial, PINFile: b.pinFile, UserType: b.userType}
}

// surveyed shows what a token is and can do.
func surveyed(show func(s hsm.Survey, parameters map[string]string) (cli.View, error)) look {
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
		tables = append(tables, [][]string{{"Of these records the token does not have one private key; kmsgate doctor says what to do:"}}, deviations.Rows)
	}
	text, err := cli.Align(tables...)
	return cli.View{Value: map[string]any{"Objects": objects.Value, "Deviations": deviations.Value}, Text: text}, err
}

// A bareObject is an object in a token of which there are no records.
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
