package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/hsm"
)

func (a *admin) tokenCommand() *cobra.Command {
	bare := new(bareToken)
	cmd := family("token", "Look into the token, or try one that is new here", `Look into the token: that of a gateway, whether it runs or not, or one that is new
here and is named by --module, --label or --serial, and --pin-file. Nothing is left
in it.`,
		a.tokenTask(bare, task{
			verb: "info", short: "Show what the module and the token are, and which KeySpecs will work",
			long: `Show what the module and the token are, and which KeySpecs will work. It tries
them, with keys that end with its session.`,
			example: "kmsgate token info\nkmsgate token info --module /usr/lib/softhsm/libsofthsm2.so --label new --pin-file pin -o json",
			flags:   []*parameter{{name: "Mechanisms", flag: "mechanisms", kind: "bool", usage: "show the token's mechanisms, too"}},
			calls:   describeToken,
		}, surveyed(viewOfSurvey)),
		a.tokenTask(bare, task{
			verb: "list", short: "List every object in the token, with its record",
			example: "kmsgate token list",
			calls:   listObjects,
		}, listBareObjects),
		a.tokenTask(bare, task{
			verb: "test", short: "Sign with every key version, and tell how fast",
			long: `Sign with every key version, and tell how fast: in milliseconds for one signature.
The signatures are checked, are of nobody's digests, and are shown to nobody. Keys
that are disabled or to be deleted are tried, too. On a token that is new here it
tells the same of keys that end with its session.`,
			example: "kmsgate token test --count 100",
			flags:   []*parameter{{name: "Count", flag: "count", kind: "N", usage: "how many signatures each: 1 to 100", values: []string{"10"}, read: readCount}},
			calls:   testKeys,
		}, surveyed(viewOfTrials)))
	bare.register(cmd)
	return cmd
}

// A look is what a command does with a token that no gateway has.
type look func(ctx context.Context, i hsm.Inspector, parameters map[string]string) (view, error)

// tokenTask makes a command that asks a gateway, or looks into a token itself if
// the line names one, or a configuration whose instance is not there yet.
func (a *admin) tokenTask(bare *bareToken, t task, look look) *cobra.Command {
	cmd := a.command(t)
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
		c, configErr := a.dialer.configuration()
		if configErr != nil || c == nil || c.Token.SoftHSM != "" { // that one is made with the instance
			return err
		}
		return a.look(cmd, t, args, c.Token, look)
	}
	return cmd
}

func (a *admin) look(cmd *cobra.Command, t task, args []string, where config.Token, look look) error {
	parameters, err := t.parameters(cmd, args)
	if err != nil {
		return err
	}
	logger := config.Log{}.Quiet(cmd.ErrOrStderr())
	return appliance.LookAtToken(where, logger, func(i hsm.Inspector) error {
		v, err := look(cmd.Context(), i, parameters)
		return errors.Join(a.print(cmd, v), err)
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

func describeToken(ctx context.Context, c caller, parameters map[string]string) (view, error) {
	var answer struct{ Survey hsm.Survey }
	if err := c.Call(ctx, "DescribeToken", nil, &answer); err != nil {
		return view{}, err
	}
	return viewOfSurvey(answer.Survey, parameters)
}

// surveyed shows what a token is and can do.
func surveyed(show func(s hsm.Survey, parameters map[string]string) (view, error)) look {
	return func(ctx context.Context, i hsm.Inspector, parameters map[string]string) (view, error) {
		s, err := i.Survey(ctx)
		if err != nil {
			return view{}, err
		}
		return show(s, parameters)
	}
}

func viewOfSurvey(s hsm.Survey, parameters map[string]string) (view, error) {
	tables := [][][]string{whatItIs(s), table(offersOf(s))}
	if parameters["Mechanisms"] == "true" {
		tables = append(tables, table(mechanismsOf(s)))
	}
	text, err := alignAll(tables...)
	return view{value: s, text: text}, err
}

// alignAll writes tables with an empty line between them.
func alignAll(tables ...[][]string) (string, error) {
	var texts []string
	for _, rows := range tables {
		text, err := align(rows)
		if err != nil {
			return "", err
		}
		texts = append(texts, string(text))
	}
	return strings.Join(texts, "\n"), nil
}

// whatItIs shows what a module and a token say of themselves.
func whatItIs(s hsm.Survey) [][]string {
	most := "no limit that it tells"
	if s.Token.MaxSessions > 0 {
		most = strconv.FormatUint(uint64(s.Token.MaxSessions), 10)
	}
	sealing := s.Sealing
	if sealing == "" {
		sealing = "none: kmsgate needs CKM_AES_GCM or CKM_SHA256_HMAC, and cannot use this token"
	}
	signing := "through the token's own objects"
	if s.Copies {
		signing = "through copies that live in sessions, which is faster here"
	}
	return [][]string{
		{"Module", plain(s.Module.Path)},
		{"", plain(fmt.Sprintf("%s, %s, version %s, PKCS#11 %s", s.Module.Description, s.Module.Manufacturer, s.Module.Version, s.Module.Cryptoki))},
		{"Token", plain(fmt.Sprintf("label %q, serial number %s, slot %d", s.Token.Label, s.Token.Serial, s.Token.Slot))},
		{"", plain(fmt.Sprintf("%s, %s, hardware %s, firmware %s", s.Token.Model, s.Token.Manufacturer, s.Token.Hardware, s.Token.Firmware))},
		{"Flags", plain(strings.Join(s.Token.Flags, ", "))},
		{"Sessions", most},
		{"Sealing", plain(sealing)},
		{"Signing", signing},
	}
}

// An offerLine is what fits in a line of an hsm.Offer.
type offerLine struct {
	KeySpec  hsm.KeySpec
	Offered  string
	Where    string
	Generate string
	Sign     string
	Reason   string
}

func offersOf(s hsm.Survey) (all []offerLine) {
	for _, o := range s.Offers {
		line := offerLine{KeySpec: o.KeySpec, Offered: "no", Reason: o.Reason, Generate: milliseconds(o.Generate), Sign: milliseconds(o.Sign)}
		if o.Offered {
			line.Offered, line.Where = "yes", "in the token"
		}
		if o.Offered && o.Software {
			line.Where = "in software, sealed by the token"
		}
		all = append(all, line)
	}
	return all
}

// milliseconds is empty for what was not measured.
func milliseconds(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

type mechanismLine struct {
	Mechanism  string
	MinKeySize uint
	MaxKeySize uint
	Flags      []string
}

func mechanismsOf(s hsm.Survey) (all []mechanismLine) {
	for _, m := range s.Mechanisms {
		all = append(all, mechanismLine{m.Name, m.MinKeySize, m.MaxKeySize, m.Flags})
	}
	return all
}

// viewOfTrials shows how a token did that no gateway has.
func viewOfTrials(s hsm.Survey, _ map[string]string) (view, error) {
	v := viewOfList(offersOf(s))
	v.value = s.Offers
	if s.Sealing == "" {
		return v, errors.New("kmsgate cannot use this token: it seals neither by CKM_AES_GCM nor by CKM_SHA256_HMAC")
	}
	return v, nil
}

// A tokenObject is an object in the token, with its record.
type tokenObject struct {
	Use            string
	Class          string
	KeySpec        string
	KeyId          string
	KeyVersionId   string
	KeyState       string
	Aliases        struct{ Alias []string }
	Label          string
	ObjectId       string
	Handle         uint
	OtherPublicKey bool
}

// A deviation is a record of which the token has not exactly one private key.
type deviation struct {
	Use          string
	KeyId        string
	KeyVersionId string
	KeyState     string
	KeySpec      string
	Aliases      struct{ Alias []string }
	PrivateKeys  int
}

type tokenObjects struct {
	Objects    struct{ Object []tokenObject }
	Deviations struct{ Deviation []deviation }
}

func listObjects(ctx context.Context, c caller, _ map[string]string) (view, error) {
	var answer tokenObjects
	if err := c.Call(ctx, "ListTokenObjects", nil, &answer); err != nil {
		return view{}, err
	}
	tables := [][][]string{table(answer.Objects.Object)}
	if len(answer.Deviations.Deviation) > 0 {
		tables = append(tables, [][]string{{"Of these records the token does not have one private key; kmsgate doctor says what to do:"}}, table(answer.Deviations.Deviation))
	}
	text, err := alignAll(tables...)
	return view{value: map[string]any{"Objects": answer.Objects.Object, "Deviations": answer.Deviations.Deviation}, text: text}, err
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

func listBareObjects(ctx context.Context, i hsm.Inspector, _ map[string]string) (view, error) {
	objects, err := i.Objects(ctx)
	if err != nil {
		return view{}, err
	}
	var all []bareObject
	for _, o := range objects {
		all = append(all, bareObject{o.Class, o.KeyType, o.KeySpec, o.Label, hex.EncodeToString(o.ID), o.Handle, o.Purpose})
	}
	return viewOfList(all), nil
}

// A keyTest is how a key version did.
type keyTest struct {
	KeyId              string
	KeyVersionId       string
	KeySpec            string
	Signatures         int
	MinMilliseconds    float64
	MedianMilliseconds float64
	MaxMilliseconds    float64
	Error              string
}

func testKeys(ctx context.Context, c caller, parameters map[string]string) (view, error) {
	versions, err := target.EveryKeyVersion(ctx, c)
	if err != nil {
		return view{}, err
	}
	var good, failed []keyTest
	for _, v := range versions {
		answer, err := target.TestKeyVersion(ctx, c, v, parameters["Count"])
		if ctx.Err() != nil {
			return view{}, err
		}
		t := keyTest{KeyId: answer.KeyId, KeyVersionId: answer.KeyVersionId, KeySpec: string(answer.KeySpec), Signatures: answer.Signatures,
			MinMilliseconds: answer.MinMilliseconds, MedianMilliseconds: answer.MedianMilliseconds, MaxMilliseconds: answer.MaxMilliseconds}
		if err != nil {
			t.Error = err.Error()
			failed = append(failed, t)
			continue
		}
		good = append(good, t)
	}
	v := viewOfList(append(good, failed...))
	if failed != nil {
		return v, fmt.Errorf("%d of %d key versions cannot sign as they should: kmsgate doctor says what to do", len(failed), len(versions))
	}
	return v, nil
}

// readCount refuses what every key version would be refused for.
func readCount(_ *cobra.Command, values []string) (string, error) {
	if n, err := strconv.Atoi(values[0]); err != nil || n < 1 || n > 100 {
		return "", fmt.Errorf("--count %s: it has to be 1 to 100", values[0])
	}
	return values[0], nil
}
