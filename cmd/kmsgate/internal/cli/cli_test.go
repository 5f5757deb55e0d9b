package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/config"
)

// A recorder is a gateway that returns the same answer to every operation, or refuses it, and
// records what it was asked.
type recorder struct {
	answer  string
	refusal error
	asked   []string
	dialed  int
	closed  int
}

func (r *recorder) Register(*cobra.Command) {}

func (r *recorder) AuditFiles() (log, key string, err error) { return "", "", nil }

func (r *recorder) Configuration() (*config.Config, error) { return nil, nil }

func (r *recorder) Dial(*cobra.Command) (target.Caller, error) {
	r.dialed++
	return r, nil
}

func (r *recorder) DialRunning(cmd *cobra.Command) (target.Caller, error) { return r.Dial(cmd) }

func (r *recorder) Close() error {
	r.closed++
	return nil
}

func (r *recorder) Call(_ context.Context, action string, parameters map[string]string, answer any) error {
	asked := action
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		asked += " " + name + "=" + parameters[name]
	}
	r.asked = append(r.asked, asked)
	if r.refusal != nil || answer == nil {
		return r.refusal
	}
	return json.Unmarshal([]byte(r.answer), answer)
}

func (r *recorder) Do(ctx context.Context, request kms.AdminRequest, answer any) error {
	return r.Call(ctx, request.Action, request.Parameters, answer)
}

func (r *recorder) Stream(context.Context, string, map[string]string, io.Writer) error {
	return errors.New("no octets")
}

// run runs a task's command.
func (r *recorder) run(stdin string, t cli.Task, args ...string) (stdout string, err error) {
	app := &cli.App{Dialer: r, Output: cli.OutputFlag()}
	root := cli.Family("kmsgate", "", "", app.Command(t))
	app.Output.AddTo(root)
	cli.Explain(root)
	root.SilenceErrors, root.SilenceUsage = true, true
	var out bytes.Buffer
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(io.Discard)
	root.SetArgs(append([]string{t.Verb}, args...))
	err = root.Execute()
	return out.String(), err
}

// parameters returns a task with a parameter of each kind.
func parameters() cli.Task {
	return cli.Task{
		Verb: "try", Example: "kmsgate try",
		Arguments: []*cli.Parameter{{Name: "First", Kind: "FIRST"}, {Name: "Rest", Kind: "REST", Many: true, Read: cli.JSONList}},
		Flags: []*cli.Parameter{
			{Name: "Plain", Flag: "plain", Kind: "TEXT"},
			{Name: "Choice", Flag: "choice", Kind: "CHOICE", Choices: []string{"a", "b"}},
			{Name: "Several", Flag: "several", Kind: "N", Many: true, Most: 2, Read: cli.JSONList},
			{Name: "Switch", Flag: "switch", Kind: "bool", Read: cli.OnlyTrue("switch", "on")},
			{Name: "File", Flag: "file", Kind: "FILE", Read: cli.ReadDocument},
			{Name: "From", Flag: "from", Kind: "TIME"}, {Name: "To", Flag: "to", Kind: "TIME"},
			{Name: "Default", Flag: "default", Kind: "N", Values: []string{"7"}},
		},
		Groups: cli.FlagGroups{OneOf: []string{"plain", "choice"}, Apart: [][]string{{"plain", "switch"}}, Together: []string{"from", "to"}},
		Calls:  cli.Done("Try", "{First} is tried."),
	}
}

func TestParameters(t *testing.T) {
	for line, want := range map[string]string{
		"x y --plain p":                          `Try Default=7 First=x Plain=p Rest=["y"]`,
		"x y z --choice a --switch":              `Try Choice=a Default=7 First=x Rest=["y","z"] Switch=on`,
		"x y --choice b --several 1":             `Try Choice=b Default=7 First=x Rest=["y"] Several=["1"]`,
		"x y --choice b --several 1,2":           `Try Choice=b Default=7 First=x Rest=["y"] Several=["1,2"]`,
		"x y --choice b --file -":                `Try Choice=b Default=7 File=in First=x Rest=["y"]`,
		"x y --choice b --from 1 --to 2":         `Try Choice=b Default=7 First=x From=1 Rest=["y"] To=2`,
		"x y --choice b --default 8":             `Try Choice=b Default=8 First=x Rest=["y"]`,
		"--choice b -- -x -y":                    `Try Choice=b Default=7 First=-x Rest=["-y"]`,
		"x y --choice b --several 1 --several=2": `Try Choice=b Default=7 First=x Rest=["y"] Several=["1","2"]`,
	} {
		r := &recorder{answer: `{"RequestId":"r"}`}
		stdout, err := r.run("in", parameters(), strings.Fields(line)...)
		if err != nil || len(r.asked) != 1 || r.asked[0] != want || r.closed != 1 {
			t.Errorf("%s: asked for %q, %v, closed %d times", line, r.asked, err, r.closed)
		}
		if first := map[bool]string{true: "-x", false: "x"}[strings.Contains(line, "-x")]; stdout != first+" is tried.\n" {
			t.Errorf("%s: printed %q", line, stdout)
		}
	}
}

// TestMistakes: a mistake in a command line is reported before a gateway is dialled.
func TestMistakes(t *testing.T) {
	for line, want := range map[string]string{
		"":                                "FIRST is missing: usage: kmsgate try FIRST REST… [flags]",
		"x":                               "REST is missing: usage: kmsgate try FIRST REST… [flags]",
		"x y":                             "one of --plain, --choice is missing (see kmsgate try --help)",
		"x y --plain p --switch":          "--plain and --switch exclude each other: give one of them",
		"x y --plain p --from 1":          "--from needs --to: give both or neither",
		"x y --plain p --to 1":            "--to needs --from: give both or neither",
		"x y --choice c":                  `--choice "c": must be one of a, b`,
		"x y --choice a --switch=false":   "--switch=false has no meaning: leave it out",
		"x y --choice a --switch=perhaps": `--switch "perhaps": must be one of true, false`,
		"x y --plain p --plain q":         `--plain "q": given twice: give it once`,
		"x y --choice a --file /none":     "open /none: no such file or directory",
		"x y --choice a" + strings.Repeat(" --several 1", 3): "--several is given 3 times: at most 2 are possible",
	} {
		r := new(recorder)
		if stdout, err := r.run("", parameters(), strings.Fields(line)...); err == nil || err.Error() != want || stdout != "" || r.dialed != 0 {
			t.Errorf("%q: %v, want %s; printed %q, dialled %d times", line, err, want, stdout, r.dialed)
		}
	}
	simple := cli.Task{Verb: "try", Calls: cli.Done("Try", "")}
	if _, err := new(recorder).run("", simple, "x"); err == nil || err.Error() != `unexpected argument "x": usage: kmsgate try [flags]` {
		t.Errorf("an argument too many: %v", err)
	}
}

// hostile is a description that a user may have chosen.
const hostile = "\x1b[2J\u202eevil\nline"

// An item is an answer with a field of each kind.
type item struct {
	kms.Result
	Name     string
	Embedded string // JSON
	List     struct{ Item []string }
	Number   int
	Share    float64
}

func answer(t *testing.T) string {
	t.Helper()
	inner, err := json.Marshal(map[string][]string{"Rules": {hostile, "b"}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"RequestId": "r", "Name": hostile, "Embedded": string(inner), "List": map[string][]string{"Item": {"c", hostile}}, "Share": 0.5})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestViews shows an answer to people and to programs. Both get the same content, and it
// cannot control a terminal.
func TestViews(t *testing.T) {
	const escaped = `\x1b[2J\u202eevil\nline`
	task := cli.Task{Verb: "try", Calls: cli.Answered("Try", func(i item) cli.View {
		return cli.ViewOf(i, "Name", "Number?", "Embedded{}", "List", "Share")
	})}
	stdout, err := (&recorder{answer: answer(t)}).run("", task)
	if want := "Name      " + escaped + "\nEmbedded  " + escaped + ", b\nList      c, " + escaped + "\nShare     0.5\n"; err != nil || stdout != want {
		t.Errorf("for people: %q, %v, want %q", stdout, err, want)
	}
	stdout, err = (&recorder{answer: answer(t)}).run("", task, "-o", "json")
	if err != nil || strings.ContainsAny(stdout, "\x1b\u202e") {
		t.Errorf("for programs: %q, %v", stdout, err)
	}
	var back struct {
		Name     string
		Number   *int
		Embedded struct{ Rules []string }
		List     []string
	}
	if err := json.Unmarshal([]byte(stdout), &back); err != nil || back.Name != hostile || back.Number == nil || back.Embedded.Rules[0] != hostile || back.List[1] != hostile {
		t.Errorf("programs read %+v, %v", back, err)
	}
	last := -1
	for _, name := range []string{`"Name"`, `"Number"`, `"Embedded"`, `"List"`, `"Share"`} {
		i := strings.Index(stdout, name)
		if i <= last {
			t.Errorf("%s is not where it belongs in %s", name, stdout)
		}
		last = i
	}
	if strings.Contains(stdout, "RequestId") {
		t.Errorf("there is more than was asked for: %s", stdout)
	}
}

// TestLists: an empty list is a list.
func TestLists(t *testing.T) {
	list := func(l struct{ Items []item }) []item { return l.Items }
	for output, want := range map[string]string{"table": "Name  Number\n", "json": "[]\n"} {
		stdout, err := (&recorder{answer: "{}"}).run("", cli.Task{Verb: "try", Calls: cli.Listed("Try", list, "Name", "Number")}, "-o", output)
		if err != nil || stdout != want {
			t.Errorf("%s: %q, %v", output, stdout, err)
		}
	}
	keys := cli.Task{Verb: "try", Calls: cli.With("Extra", "x", cli.ListedInPages(target.Keys, "KeyId"))}
	r := &recorder{answer: `{"Keys":{"Key":[{"KeyId":"k"}]},"TotalCount":150}`}
	stdout, err := r.run("", keys)
	if err != nil || stdout != "KeyId\nk\nk\n" || !slices.Equal(r.asked, []string{"ListKeys Extra=x PageNumber=1 PageSize=100", "ListKeys Extra=x PageNumber=2 PageSize=100"}) {
		t.Errorf("two pages: %q, %v, asked for %q", stdout, err, r.asked)
	}
}

// TestUnknownField: a column that no answer has is a mistake in the program, which the first
// test of the command finds.
func TestUnknownField(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an unknown field is shown")
		}
	}()
	cli.ViewOf(item{}, "Nmae")
}

// TestAdvice: the command line adds what helps, and the gateway's error stays what it is.
func TestAdvice(t *testing.T) {
	for action, c := range map[string]struct {
		refusal *kms.Error
		advice  string
	}{
		"SetUserQuota": {kms.InvalidParameter("QuotaName", "x"), "kmsgate quota list"},
		"DeleteKey":    {kms.ErrInvalidParameter, ""},
	} {
		_, err := (&recorder{refusal: c.refusal}).run("", cli.Task{Verb: "try", Calls: cli.Done(action, "")})
		if !errors.Is(err, c.refusal) || !strings.HasPrefix(err.Error(), c.refusal.Error()) {
			t.Errorf("%s: got %v, want %v", action, err, c.refusal)
		}
		if advised := err.Error() != c.refusal.Error(); advised != (c.advice != "") || !strings.Contains(err.Error(), c.advice) {
			t.Errorf("%s: got %v, want advice %q", action, err, c.advice)
		}
	}
}

func TestConfirm(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, "YES\n": true, " yes": true, "": false, "n\n": false, "yesterday\n": false, "\ny\n": false} {
		for _, format := range []string{cli.OutputTable, cli.OutputJSON} {
			app := &cli.App{Output: cli.OutputFlag()}
			app.Output.Values = []string{format}
			var out bytes.Buffer
			cmd := new(cobra.Command)
			cmd.SetErr(&out)
			cmd.SetIn(strings.NewReader(answer))
			err := app.Confirm(cmd, "This ends it.")
			asked, agreed := "This ends it.\nContinue? [y/N] ", want
			if format == cli.OutputJSON { // a program is not asked, whatever its input is
				asked, agreed = "", false
			}
			if (err == nil) != agreed || err != nil && !errors.Is(err, cli.ErrNotConfirmed) || strings.TrimSuffix(out.String(), "\n") != asked {
				t.Errorf("%s, %q: got %v, asked %q, want agreed %v, asked %q", format, answer, err, &out, agreed, asked)
			}
		}
	}
}

// TestCommandLine: a command line can be pasted into a shell.
func TestCommandLine(t *testing.T) {
	cmd := &cobra.Command{Use: "try", Run: func(*cobra.Command, []string) {}}
	for _, name := range []string{"repair", "yes", "force"} {
		cmd.Flags().Bool(name, false, "")
	}
	cmd.Flags().String("config", "", "")
	cmd.Flags().String("dir", "", "")
	cmd.SetArgs([]string{"--repair", "--yes=false", "--config", "it's mine"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if got, want := cli.CommandLine(cmd), `try --config 'it'\''s mine' --repair`; got != want {
		t.Errorf("CommandLine: got %s, want %s", got, want)
	}
}

// TestExitStatus: a wrapped error keeps its exit status.
func TestExitStatus(t *testing.T) {
	for want, errs := range map[int][]error{
		cli.ExitOK:          {nil},
		cli.ExitOther:       {io.EOF, kms.ErrInternal, &net.OpError{Op: "listen", Err: io.EOF}},
		cli.ExitUsage:       {cli.Usagef("x"), target.ErrNoTarget, kms.ErrInvalidParameter, kms.ErrMissingParameter},
		cli.ExitNotFound:    {kms.ErrKeyNotFound, kms.ErrAliasNotFound, kms.ErrUserNotFound, kms.ErrPolicyNotFound},
		cli.ExitRefused:     {kms.ErrNoPermission, kms.ErrKeyDisabled, kms.ErrThrottling},
		cli.ExitUnreachable: {target.ErrUnreachable, kms.ErrUnavailable, hsm.ErrUnavailable, &net.OpError{Op: "dial", Err: io.EOF}},
		cli.ExitPIN:         {hsm.ErrPIN, errors.Join(kms.ErrUnavailable, hsm.ErrPIN)},
	} {
		for _, err := range errs {
			if err != nil {
				err = fmt.Errorf("trying: %w", err)
			}
			if got := cli.ExitStatus(err); got != want {
				t.Errorf("%v: got exit status %d, want %d", err, got, want)
			}
		}
	}
}

// TestFiles: large files, empty documents and secrets that others can access are refused.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	large := write("large", strings.Repeat("x", cli.MaxDocument+1), 0o600)
	if _, err := cli.ReadSmallFile(large); err == nil || !strings.Contains(err.Error(), "larger than 64 KiB") {
		t.Errorf("a large file: %v", err)
	}
	if text, err := cli.ReadSmallFile(write("fits", strings.Repeat("x", cli.MaxDocument), 0o600)); err != nil || len(text) != cli.MaxDocument {
		t.Errorf("the largest: %v", err)
	}
	if _, err := cli.ReadDocument(new(cobra.Command), []string{write("blank", " \n", 0o600)}); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("a blank document: %v", err)
	}
	if text, err := cli.ReadSecretFile(write("secret", "s", 0o600)); err != nil || string(text) != "s" {
		t.Errorf("a secret: %q, %v", text, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o610} {
		path := write("open", "s", mode)
		if _, err := cli.ReadSecretFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("%v: %v", mode, err)
		}
	}
}

// TestTargetFlags: at most one flag addresses a gateway.
func TestTargetFlags(t *testing.T) {
	run := func(args ...string) error {
		flags := new(cli.TargetFlags)
		cmd := &cobra.Command{Use: "try", SilenceErrors: true, SilenceUsage: true, RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := flags.Dial(cmd)
			return err
		}}
		flags.Register(cmd)
		cmd.Args = cli.Arguments("")
		cli.Explain(cmd)
		cmd.SetArgs(args)
		return cmd.Execute()
	}
	t.Setenv(target.SocketVariable, "")
	gone := filepath.Join(t.TempDir(), "gone")
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "which gateway?"},
		{[]string{"--socket", gone}, "no gateway answers at the admin socket " + gone},
		{[]string{"--config", gone}, gone},
		{[]string{"--dir", gone}, filepath.Join(gone, config.FileName)},
		{[]string{"--dir", gone, "--socket", gone}, "exclude each other"},
	} {
		if err := run(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.args, err, c.want)
		}
	}
}

// TestExitStatusesDocumented holds the table in docs/cli.md to the constants.
func TestExitStatusesDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| .+ \|$`).FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, row[1])
	}
	var want []string
	for _, status := range []int{cli.ExitOK, cli.ExitOther, cli.ExitUsage, cli.ExitNotFound, cli.ExitRefused, cli.ExitUnreachable, cli.ExitPIN} {
		want = append(want, strconv.Itoa(status))
	}
	if !slices.Equal(documented, want) {
		t.Errorf("docs/cli.md documents the exit statuses %q, want %q", documented, want)
	}
}
