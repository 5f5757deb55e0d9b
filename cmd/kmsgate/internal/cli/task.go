// Package cli makes the commands that administer a gateway: a command is a [Task], which
// declares its arguments and flags, the operations it calls and how it shows their
// answers. Its output cannot control a terminal.
package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A Dialer finds the gateway that a command line means.
type Dialer interface {
	Register(cmd *cobra.Command) // adds the flags that say which
	Dial(cmd *cobra.Command) (target.Caller, error)
	// AuditFiles returns where the audit log and its public key are, if the line has a
	// configuration.
	AuditFiles() (log, key string, err error)
	// Configuration returns the configuration that the line names, nil if it names none.
	Configuration() (*config.Config, error)
}

// An App makes commands, and prints what they show.
type App struct {
	Dialer Dialer
	Output *Parameter // -o: see OutputFlag
}

// Family makes a command that does nothing but have others.
func Family(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		// One that cannot be run would take a mistyped name for a call for help,
		// and succeed.
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// A Task is a command that does operations. Its name and its arguments make the
// command's use.
type Task struct {
	Verb, Short, Long, Example string
	Arguments                  []*Parameter
	Flags                      []*Parameter
	Groups                     FlagGroups
	Calls                      Calls
}

// Calls are the operations that a command does with the parameters that its
// line gave.
type Calls func(ctx context.Context, c target.Caller, parameters map[string]string) (View, error)

// Command makes a command of a task.
func (a *App) Command(t Task) *cobra.Command {
	cmd := &cobra.Command{
		Use: t.use(), Short: t.Short, Long: t.Long, Example: "  " + strings.ReplaceAll(t.Example, "\n", "\n  "),
		Args:              t.checkArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.do(cmd, t, args) },
	}
	for _, f := range t.Flags {
		f.AddTo(cmd)
	}
	t.Groups.addTo(cmd)
	return cmd
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

func (t Task) checkArguments(cmd *cobra.Command, args []string) error {
	n := len(t.Arguments)
	if len(args) < n {
		return fmt.Errorf("%s is missing: %s", t.Arguments[len(args)].Kind, cmd.UseLine())
	}
	if len(args) > n && (n == 0 || !t.Arguments[n-1].Many) {
		return fmt.Errorf("%q is one argument too many: %s", args[n], cmd.UseLine())
	}
	return t.Groups.check(cmd)
}

// Parameters returns the parameters that the command line gives.
func (t Task) Parameters(cmd *cobra.Command, args []string) (map[string]string, error) {
	given := make(map[string]string)
	for i, p := range t.Arguments {
		values := args[i : i+1]
		if p.Many {
			values = args[i:]
		}
		if err := p.give(cmd, values, given); err != nil {
			return nil, err
		}
	}
	for _, p := range t.Flags {
		if err := p.give(cmd, p.Values, given); err != nil {
			return nil, err
		}
	}
	return given, nil
}

// do reads all of the command line before it dials: a mistake in it is told
// without a gateway.
func (a *App) do(cmd *cobra.Command, t Task, args []string) (err error) {
	parameters, err := t.Parameters(cmd, args)
	if err != nil {
		return err
	}
	c, err := a.Dialer.Dial(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	v, err := t.Calls(cmd.Context(), c, parameters)
	// What was done before an error is shown, too.
	return errors.Join(a.Print(cmd, v), err)
}

// Answered does one operation and shows its answer.
func Answered[T any](action string, show func(answer T) View) Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (View, error) {
		var answer T
		if err := c.Call(ctx, action, parameters, &answer); err != nil {
			return View{}, advise(action, err)
		}
		return show(answer), nil
	}
}

// Done does one operation that has nothing to answer, and says so in a sentence
// in which {Name} stands for the parameter.
func Done(action, sentence string) Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (View, error) {
		var values []string
		for name, value := range parameters {
			values = append(values, "{"+name+"}", printable.Text(value))
		}
		text := strings.NewReplacer(values...).Replace(sentence) + "\n"
		return Answered(action, func(answer kms.EmptyResponse) View { return View{Value: answer, Text: text} })(ctx, c, parameters)
	}
}

// With adds a parameter that the command line does not give.
func With(name, value string, then Calls) Calls {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (View, error) {
		parameters[name] = value
		return then(ctx, c, parameters)
	}
}

// Listed does one operation that answers with a list, and shows these fields of its items.
// See [ViewOf].
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
