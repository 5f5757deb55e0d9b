// Package cli makes the commands that administer a gateway. A command is a [Task]: it
// declares its arguments and flags, the operations it calls and how it shows their answers.
// Whatever a gateway answers, the output cannot control a terminal.
package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// A Dialer finds the gateway that a command line addresses.
type Dialer interface {
	Register(cmd *cobra.Command) // adds the flags that address a gateway
	Dial(cmd *cobra.Command) (target.Caller, error)
	// DialRunning is Dial for a gateway that is running: it never opens a stopped one.
	DialRunning(cmd *cobra.Command) (target.Caller, error)
	// AuditFiles returns the paths of the audit log and of its public key. They are empty
	// if the command line names no configuration.
	AuditFiles() (log, key string, err error)
	// Configuration returns the configuration that the command line names, or nil.
	Configuration() (*config.Config, error)
}

// An App makes commands and prints what they return.
type App struct {
	Dialer Dialer
	Output *Parameter // -o: see OutputFlag
}

// Family makes a command that only groups others.
func Family(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: unknownCommand,
		// Without RunE, cobra takes a mistyped subcommand for a call for help, and succeeds.
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// Family is [Family] for commands that address a gateway.
func (a *App) Family(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	cmd := Family(use, short, long, commands...)
	a.Dialer.Register(cmd)
	return cmd
}

// A Task is a command that calls operations. Verb and Arguments make its usage line.
type Task struct {
	Verb, Short, Long, Example string
	Arguments                  []*Parameter
	Flags                      []*Parameter
	Groups                     FlagGroups
	Confirm                    Question // asked first, if what follows cannot be undone
	Calls                      Calls
}

// Calls are the operations of a command. parameters are those that its command line gives.
type Calls func(ctx context.Context, c target.Caller, parameters map[string]string) (View, error)

// Command makes a command of a task.
func (a *App) Command(t Task) *cobra.Command {
	yes := yesFlag("do not ask")
	cmd := &cobra.Command{
		Use: t.use(), Short: t.Short, Long: t.Long, Example: "  " + strings.ReplaceAll(t.Example, "\n", "\n  "),
		Args:              Arguments(strings.TrimPrefix(t.use(), t.Verb)),
		ValidArgsFunction: a.completeArguments(t.Arguments), SuggestFor: otherWords[t.Verb],
		RunE: func(cmd *cobra.Command, args []string) error { return a.do(cmd, t, args, yes.isSet()) },
	}
	for _, f := range t.Flags {
		a.AddFlag(cmd, f)
	}
	if t.Confirm != nil {
		yes.AddTo(cmd)
	}
	t.Groups.addTo(cmd)
	return cmd
}

// AddFlag adds a flag to a command, with what a shell can complete of it.
func (a *App) AddFlag(cmd *cobra.Command, p *Parameter) {
	p.AddTo(cmd)
	if p.Complete != nil {
		p.completeBy(cmd, a.completeFrom(p))
	}
}

// otherWords are what people from other programs type for a verb.
var otherWords = map[string][]string{
	"create": {"add", "new", "make"}, "list": {"ls", "get"}, "show": {"describe", "get", "info"},
	"update": {"set", "edit", "change"}, "delete": {"rm", "remove", "del"},
}

// Commands makes commands of tasks.
func (a *App) Commands(tasks ...Task) (commands []*cobra.Command) {
	for _, t := range tasks {
		commands = append(commands, a.Command(t))
	}
	return commands
}

func (t Task) use() string {
	use := t.Verb
	for _, p := range t.Arguments {
		use += " " + p.Kind
		if p.Many {
			use += "…"
		}
	}
	return use
}

// Parameters returns the parameters on the command line. An error, even about a file
// that the command line names, is one about the command line: see [ExitUsage].
func (t Task) Parameters(cmd *cobra.Command, args []string) (map[string]string, error) {
	parameters, err := t.collect(cmd, args)
	if err != nil {
		return nil, &usageError{err}
	}
	return parameters, nil
}

func (t Task) collect(cmd *cobra.Command, args []string) (map[string]string, error) {
	parameters := make(map[string]string)
	for i, p := range t.Arguments {
		values := args[i : i+1]
		if p.Many {
			values = args[i:]
		}
		if err := p.collect(cmd, values, parameters); err != nil {
			return nil, err
		}
	}
	for _, p := range t.Flags {
		if err := p.collect(cmd, p.Values, parameters); err != nil {
			return nil, err
		}
	}
	return parameters, nil
}

// do reads the whole command line before it dials: reporting a mistake in it needs no
// gateway.
func (a *App) do(cmd *cobra.Command, t Task, args []string, yes bool) (err error) {
	parameters, err := t.Parameters(cmd, args)
	if err != nil {
		return err
	}
	c, err := a.Dialer.Dial(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if t.Confirm != nil && !yes {
		question, err := t.Confirm(cmd.Context(), c, parameters)
		if err != nil {
			return t.clarify(err, args)
		}
		if err := a.Confirm(cmd, question); err != nil {
			return err
		}
	}
	v, err := t.Calls(cmd.Context(), c, parameters)
	err = t.clarify(err, args)
	// A view is printed even with an error: it shows the operations that succeeded before.
	printErr := a.Print(cmd, v)
	if printErr != nil && err == nil {
		return fmt.Errorf("the command was carried out, but its answer is lost: %w", printErr)
	}
	return errors.Join(printErr, err)
}

// clarify adds to a refusal of the gateway what only the command line knows: which thing does not
// exist, and which flag gives a parameter.
func (t Task) clarify(err error, args []string) error {
	var refusal *kms.Error
	if !errors.As(err, &refusal) {
		return err
	}
	if refusal.Status == http.StatusNotFound {
		var named []string
		for i, p := range t.Arguments {
			if p.Complete != nil {
				named = append(named, strconv.Quote(args[i]))
			}
		}
		for _, f := range t.Flags {
			if f.Complete != nil {
				for _, value := range f.Values {
					named = append(named, "--"+f.Flag+" "+strconv.Quote(value))
				}
			}
		}
		text := strings.Join(named, ", ")
		if text != "" && !strings.Contains(err.Error(), named[0]) {
			return fmt.Errorf("%s: %w", text, err)
		}
		return err
	}
	for _, f := range t.Flags {
		if f.Name != "" && !strings.EqualFold(f.Name, f.Flag) && strings.Contains(refusal.Message, strconv.Quote(f.Name)) {
			return fmt.Errorf("%w (%s is --%s)", err, f.Name, f.Flag)
		}
	}
	return err
}

// Answered calls one operation and shows its answer.
func Answered[T any](action string, show func(answer T) View) Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (View, error) {
		var answer T
		if err := c.Call(ctx, action, parameters, &answer); err != nil {
			return View{}, advise(action, err)
		}
		return show(answer), nil
	}
}

// Done calls one operation whose answer is empty, and prints a sentence. {Name} in the
// sentence is replaced by that parameter.
func Done(action, sentence string) Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (View, error) {
		text := fill(sentence, parameters) + "\n"
		return Answered(action, func(answer kms.EmptyResponse) View { return View{Value: answer, Text: text} })(ctx, c, parameters)
	}
}

// fill replaces each {Name} in a sentence by the parameter of that name, escaped.
func fill(sentence string, parameters map[string]string) string {
	var pairs []string
	for name, value := range parameters {
		pairs = append(pairs, "{"+name+"}", printable.Text(value))
	}
	return strings.NewReplacer(pairs...).Replace(sentence)
}

// With adds a parameter that is not on the command line.
func With(name, value string, then Calls) Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (View, error) {
		parameters[name] = value
		return then(ctx, c, parameters)
	}
}

// Listed calls one operation that answers with a list, and shows these fields of its items.
// [ViewOf] says what a field can be.
func Listed[T, Item any](action string, items func(answer T) []Item, fields ...string) Calls {
	return Answered(action, func(answer T) View { return ViewOfList(items(answer), fields...) })
}

// ListedInPages is [Listed] for an operation that answers with a list in pages.
func ListedInPages[Page, Item any](list target.List[Page, Item], fields ...string) Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (View, error) {
		all, err := list.All(ctx, c, parameters)
		if err != nil {
			return View{}, err
		}
		return ViewOfList(all, fields...), nil
	}
}
