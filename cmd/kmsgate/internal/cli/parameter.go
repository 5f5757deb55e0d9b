package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// A Parameter is an argument or a flag: a parameter of an operation, or an option of the
// command itself.
type Parameter struct {
	Name      string   // of the operation's parameter
	Flag      string   // empty for an argument
	Short     string   // the flag's one-letter form
	Inherited bool     // subcommands have the flag too
	Kind      string   // what help calls the value; "bool" is a flag without a value
	Usage     string   // of the flag
	Required  bool     // for a flag; arguments always are
	Many      bool     // the flag, or the last argument, can be repeated
	Most      int      // how often the flag can be given; 0 is no limit
	Choices   []string // all possible values, if they are known
	Values    []string // what the flag was given, or its default
	// Read turns the values into what is sent. If it is nil, the value itself is sent.
	Read  func(cmd *cobra.Command, values []string) (string, error)
	given bool // the command line gives the flag
	// Complete returns the values that a running gateway knows, for a shell to complete.
	Complete Completer
}

// String, Type and Set make a flag of a parameter.
func (p *Parameter) String() string { return strings.Join(p.Values, ",") }
func (p *Parameter) Type() string   { return p.Kind }
func (p *Parameter) Set(value string) error {
	if p.Choices != nil && !slices.Contains(p.Choices, value) {
		return fmt.Errorf("must be one of %s", strings.Join(p.Choices, ", "))
	}
	if !p.Many {
		if p.given {
			return errors.New("given twice: give it once")
		}
		p.Values = nil
	}
	p.given = true
	p.Values = append(p.Values, value)
	return nil
}

// Value returns the value of an option that can be given once.
func (p *Parameter) Value() string { return p.Values[0] }

// AddTo adds the flag to a command, with what a shell can complete without a gateway.
func (p *Parameter) AddTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	if p.Inherited {
		flags = cmd.PersistentFlags()
	}
	f := flags.VarPF(p, p.Flag, p.Short, p.Usage)
	switch {
	case p.Kind == "bool":
		p.Choices, f.NoOptDefVal = []string{"true", "false"}, "true"
	case p.Choices != nil:
		f.Usage += ": " + strings.Join(p.Choices, ", ")
	}
	if p.Required {
		_ = cmd.MarkFlagRequired(p.Flag) // it was added above
	}
	if p.Kind != "FILE" && p.Complete == nil {
		p.completeBy(cmd, cobra.FixedCompletions(p.Choices, cobra.ShellCompDirectiveNoFileComp))
	}
}

func (p *Parameter) completeBy(cmd *cobra.Command, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(p.Flag, complete); err != nil {
		panic(err) // two flags of one name are a mistake in this program
	}
}

// collect adds what is sent for values to parameters.
func (p *Parameter) collect(cmd *cobra.Command, values []string, parameters map[string]string) (err error) {
	if len(values) == 0 {
		return nil
	}
	if p.Most > 0 && len(values) > p.Most {
		return fmt.Errorf("--%s is given %d times: at most %d are possible", p.Flag, len(values), p.Most)
	}
	parameters[p.Name] = values[0]
	if p.Read != nil {
		parameters[p.Name], err = p.Read(cmd, values)
	}
	return err
}
