package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// A Parameter of an operation, or an option of a command's own, as a command line gives it:
// an argument or a flag.
type Parameter struct {
	Name      string   // the operation's
	Flag      string   // without one it is an argument
	Short     string   // of the flag: one letter
	Inherited bool     // the flag is one of the command's commands, too
	Kind      string   // what help calls the value; "bool" is a flag without one
	Usage     string   // of the flag
	Required  bool     // the flag; arguments always are
	Many      bool     // the flag can be repeated, the last argument can
	Most      int      // how often the flag can be given; 0 if that is not bounded
	Choices   []string // all possible values, if that is known
	Values    []string // of the flag
	// Read makes what is sent; without it that is the value itself.
	Read func(cmd *cobra.Command, values []string) (string, error)
}

// String, Type and Set make a flag of a parameter.
func (p *Parameter) String() string { return strings.Join(p.Values, ",") }
func (p *Parameter) Type() string   { return p.Kind }
func (p *Parameter) Set(value string) error {
	if p.Choices != nil && !slices.Contains(p.Choices, value) {
		return fmt.Errorf("it has to be one of %s", strings.Join(p.Choices, ", "))
	}
	if !p.Many {
		p.Values = nil
	}
	p.Values = append(p.Values, value)
	return nil
}

// Value is that of an option which can be given once.
func (p *Parameter) Value() string { return p.Values[0] }

// AddTo adds the flag to a command, with what a shell can complete of it.
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
	complete := cobra.FixedCompletions(p.Choices, cobra.ShellCompDirectiveNoFileComp)
	if p.Kind == "FILE" {
		complete = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	}
	err := cmd.RegisterFlagCompletionFunc(p.Flag, complete)
	if p.Required {
		err = errors.Join(err, cmd.MarkFlagRequired(p.Flag))
	}
	if err != nil {
		panic(err) // the flag is not there or twice: a mistake in this program
	}
}

// give adds what is sent to what is given already.
func (p *Parameter) give(cmd *cobra.Command, values []string, given map[string]string) (err error) {
	if len(values) == 0 {
		return nil
	}
	if p.Most > 0 && len(values) > p.Most {
		return fmt.Errorf("--%s is given %d times: at most %d are possible", p.Flag, len(values), p.Most)
	}
	given[p.Name] = values[0]
	if p.Read != nil {
		given[p.Name], err = p.Read(cmd, values)
	}
	return err
}
