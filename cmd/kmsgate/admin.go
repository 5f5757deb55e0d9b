package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
)

type caller = target.Caller

// A dialer finds the gateway that a command line means.
type dialer interface {
	register(cmd *cobra.Command) // adds the flags that say which
	dial(cmd *cobra.Command) (caller, error)
	// auditFiles gives where the audit log and its public key are, if the line has
	// a configuration.
	auditFiles() (log, key string, err error)
	// configuration gives the configuration that the line names, nil if it names
	// none.
	configuration() (*config.Config, error)
}

// adminCommands are the commands that administer a gateway.
func adminCommands(d dialer) []*cobra.Command {
	a := &admin{dialer: d, output: outputFlag()}
	calling := []*cobra.Command{
		a.userCommand(), a.accessKeyCommand(), a.policyCommand(),
		a.keyCommand(), a.aliasCommand(), a.aapCommand(), a.clientKeyCommand(), a.quotaCommand(), a.tokenCommand(), a.doctorCommand(),
	}
	for _, cmd := range calling {
		d.register(cmd)
	}
	all := append(calling, a.auditCommand())
	for _, cmd := range all {
		a.output.addTo(cmd)
	}
	return all
}

// An admin makes commands.
type admin struct {
	dialer dialer
	output *parameter // -o
}

// family makes a command that does nothing but have others.
func family(use, short, long string, commands ...*cobra.Command) *cobra.Command {
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

// A task is a command that does operations. Its name and its arguments make the
// command's use.
type task struct {
	verb, short, long, example string
	arguments                  []*parameter
	flags                      []*parameter
	groups                     flagGroups
	calls                      calls
}

// calls are the operations that a command does with the parameters that its
// line gave.
type calls func(ctx context.Context, c caller, parameters map[string]string) (view, error)

func (a *admin) command(t task) *cobra.Command {
	cmd := &cobra.Command{
		Use: t.use(), Short: t.short, Long: t.long, Example: "  " + strings.ReplaceAll(t.example, "\n", "\n  "),
		Args:              t.checkArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.do(cmd, t, args) },
	}
	for _, f := range t.flags {
		f.addTo(cmd)
	}
	t.groups.addTo(cmd)
	return cmd
}

func (a *admin) commands(tasks ...task) (commands []*cobra.Command) {
	for _, t := range tasks {
		commands = append(commands, a.command(t))
	}
	return commands
}

func (t task) use() string {
	use := t.verb
	for _, p := range t.arguments {
		use += " " + p.kind
		if p.many {
			use += "…"
		}
	}
	return use
}

func (t task) checkArguments(cmd *cobra.Command, args []string) error {
	n := len(t.arguments)
	if len(args) < n {
		return fmt.Errorf("%s is missing: %s", t.arguments[len(args)].kind, cmd.UseLine())
	}
	if len(args) > n && (n == 0 || !t.arguments[n-1].many) {
		return fmt.Errorf("%q is one argument too many: %s", args[n], cmd.UseLine())
	}
	return t.groups.check(cmd)
}

// parameters are those that the command line gave.
func (t task) parameters(cmd *cobra.Command, args []string) (map[string]string, error) {
	given := make(map[string]string)
	for i, p := range t.arguments {
		values := args[i : i+1]
		if p.many {
			values = args[i:]
		}
		if err := p.give(cmd, values, given); err != nil {
			return nil, err
		}
	}
	for _, p := range t.flags {
		if err := p.give(cmd, p.values, given); err != nil {
			return nil, err
		}
	}
	return given, nil
}

// do reads all of the command line before it dials: a mistake in it is told
// without a gateway.
func (a *admin) do(cmd *cobra.Command, t task, args []string) (err error) {
	parameters, err := t.parameters(cmd, args)
	if err != nil {
		return err
	}
	c, err := a.dialer.dial(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	v, err := t.calls(cmd.Context(), c, parameters)
	// What was done before an error is shown, too.
	return errors.Join(a.print(cmd, v), err)
}

// A parameter of an operation, or an option of a command's own, as a command
// line gives it: an argument or a flag.
type parameter struct {
	name      string   // the operation's
	flag      string   // without one it is an argument
	short     string   // of the flag: one letter
	inherited bool     // the flag is one of the command's commands, too
	kind      string   // what help calls the value; "bool" is a flag without one
	usage     string   // of the flag
	required  bool     // the flag; arguments always are
	many      bool     // the flag can be repeated, the last argument can
	most      int      // how often the flag can be given; 0 if that is not bounded
	choices   []string // all values that there are, if that is known
	values    []string // of the flag
	// read makes what is sent; without it that is the value itself.
	read func(cmd *cobra.Command, values []string) (string, error)
}

// String, Type and Set make a flag of a parameter.
func (p *parameter) String() string { return strings.Join(p.values, ",") }
func (p *parameter) Type() string   { return p.kind }
func (p *parameter) Set(value string) error {
	if p.choices != nil && !slices.Contains(p.choices, value) {
		return fmt.Errorf("it has to be one of %s", strings.Join(p.choices, ", "))
	}
	if !p.many {
		p.values = nil
	}
	p.values = append(p.values, value)
	return nil
}

// value is that of an option which can be given once.
func (p *parameter) value() string { return p.values[0] }

// addTo adds the flag to a command, with what a shell can complete of it.
func (p *parameter) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	if p.inherited {
		flags = cmd.PersistentFlags()
	}
	f := flags.VarPF(p, p.flag, p.short, p.usage)
	switch {
	case p.kind == "bool":
		p.choices, f.NoOptDefVal = []string{"true", "false"}, "true"
	case p.choices != nil:
		f.Usage += ": " + strings.Join(p.choices, ", ")
	}
	complete := cobra.FixedCompletions(p.choices, cobra.ShellCompDirectiveNoFileComp)
	if p.kind == "FILE" {
		complete = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	}
	err := cmd.RegisterFlagCompletionFunc(p.flag, complete)
	if p.required {
		err = errors.Join(err, cmd.MarkFlagRequired(p.flag))
	}
	if err != nil {
		panic(err) // the flag is not there or twice: a mistake in this program
	}
}

// give adds what is sent to what is given already.
func (p *parameter) give(cmd *cobra.Command, values []string, given map[string]string) (err error) {
	if len(values) == 0 {
		return nil
	}
	if p.most > 0 && len(values) > p.most {
		return fmt.Errorf("--%s is given %d times: at most %d are possible", p.flag, len(values), p.most)
	}
	given[p.name] = values[0]
	if p.read != nil {
		given[p.name], err = p.read(cmd, values)
	}
	return err
}

// answered does one operation and shows its answer.
func answered[T any](action string, show func(answer T) view) calls {
	return func(ctx context.Context, c caller, parameters map[string]string) (view, error) {
		var answer T
		if err := c.Call(ctx, action, parameters, &answer); err != nil {
			return view{}, err
		}
		return show(answer), nil
	}
}

// done does one operation that has nothing to answer, and says so in a sentence
// in which {Name} stands for the parameter.
func done(action, sentence string) calls {
	return func(ctx context.Context, c caller, parameters map[string]string) (view, error) {
		var values []string
		for name, value := range parameters {
			values = append(values, "{"+name+"}", plain(value))
		}
		text := strings.NewReplacer(values...).Replace(sentence) + "\n"
		return answered(action, func(answer struct{ RequestId string }) view { return view{value: answer, text: text} })(ctx, c, parameters)
	}
}

// with adds a parameter that the command line does not give.
func with(name, value string, then calls) calls {
	return func(ctx context.Context, c caller, parameters map[string]string) (view, error) {
		parameters[name] = value
		return then(ctx, c, parameters)
	}
}

// listed does one operation that answers with a list.
func listed[T, Item any](action string, items func(answer T) []Item) calls {
	return answered(action, func(answer T) view { return viewOfList(items(answer)) })
}

// pageInfo is what a page of any list says besides its items.
type pageInfo struct{ TotalCount int }

func (p pageInfo) total() int { return p.TotalCount }

type paged interface{ total() int }

// pageSize is the largest that the API has.
const pageSize = 100

// allPages does an operation for every page of its list.
func allPages[T paged, Item any](ctx context.Context, c caller, action string, parameters map[string]string, items func(page T) []Item) ([]Item, error) {
	var all []Item
	for n := 1; ; n++ {
		var page T
		request := maps.Clone(parameters)
		request["PageNumber"], request["PageSize"] = strconv.Itoa(n), strconv.Itoa(pageSize)
		if err := c.Call(ctx, action, request, &page); err != nil {
			return nil, err
		}
		all = append(all, items(page)...)
		if len(items(page)) == 0 || n*pageSize >= page.total() {
			return all, nil
		}
	}
}

// listedInPages does an operation that answers with a list in pages.
func listedInPages[T paged, Item any](action string, items func(page T) []Item) calls {
	return func(ctx context.Context, c caller, parameters map[string]string) (view, error) {
		all, err := allPages(ctx, c, action, parameters, items)
		if err != nil {
			return view{}, err
		}
		return viewOfList(all), nil
	}
}
