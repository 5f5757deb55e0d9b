package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kmsgate/kmsgate/internal/printable"
)

// Explain has root and all its commands explain every mistake in a command line in this
// program's words instead of the framework's. Call it once, when the tree is complete.
func Explain(root *cobra.Command) {
	root.SetFlagErrorFunc(explainFlag)
	root.SetHelpCommand(helpCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil && completion != root {
		completion.Args, completion.RunE = unknownCommand, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		for _, shell := range completion.Commands() {
			shell.Args = Arguments("")
		}
	}
	cobra.AddTemplateFunc("wrapFlags", func(flags *pflag.FlagSet) string { return flags.FlagUsagesWrapped(helpWidth) })
	root.SetUsageTemplate(strings.NewReplacer(".LocalFlags.FlagUsages", "wrapFlags .LocalFlags",
		".InheritedFlags.FlagUsages", "wrapFlags .InheritedFlags").Replace(root.UsageTemplate()))
	explain(root)
}

// helpWidth is the number of columns that help pages use.
const helpWidth = 90

// helpCommand replaces the framework's, which accepts a command that does not exist.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND…]", Short: "Show help for a command", Args: Arguments("[COMMAND…]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return &usageError{unknownCommand(found, rest)}
			}
			return found.Help()
		},
	}
}

func explain(cmd *cobra.Command) {
	cmd.InitDefaultHelpFlag()
	if help := cmd.Flags().Lookup("help"); help != nil {
		help.Usage = "show help"
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil {
				err = checkFlags(cmd)
			}
			if err == nil {
				return nil
			}
			return &usageError{err}
		}
	}
	for _, child := range cmd.Commands() {
		explain(child)
	}
}

// Arguments returns a check of how many arguments a command gets. Each word of use names
// one: FILE is required, [FILE] is optional, and the last may be repeated: FILE… or [FILE…].
func Arguments(use string) cobra.PositionalArgs {
	words := strings.Fields(use)
	repeats := len(words) > 0 && strings.Contains(words[len(words)-1], "…")
	return func(cmd *cobra.Command, args []string) error {
		if i := slices.Index(args, ""); i >= 0 && len(words) > 0 {
			return fmt.Errorf("%s is empty: usage: %s", strings.Trim(words[min(i, len(words)-1)], "[]…"), cmd.UseLine())
		}
		if len(args) < len(words) && !strings.HasPrefix(words[len(args)], "[") {
			return fmt.Errorf("%s is missing: usage: %s", strings.TrimSuffix(words[len(args)], "…"), cmd.UseLine())
		}
		if len(args) > len(words) && !repeats {
			return fmt.Errorf("unexpected argument %q: usage: %s", args[len(words)], cmd.UseLine())
		}
		return nil
	}
}

// unknownCommand refuses the first argument of a command that only has others.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	return fmt.Errorf("unknown command %q%s (see %s --help)", cmd.CommandPath()+" "+args[0], suggestion("", cmd.SuggestionsFor(args[0])), cmd.CommandPath())
}

// suggestion returns ": did you mean …?" with the names, each after prefix.
func suggestion(prefix string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ": did you mean " + prefix + strings.Join(names, " or "+prefix) + "?"
}

// Similar returns those of names that may be meant by a mistyped one.
func Similar(name string, names []string) []string {
	root := &cobra.Command{SuggestionsMinimumDistance: 2} // it knows the distance of words
	for _, n := range names {
		root.AddCommand(&cobra.Command{Use: n, Run: func(*cobra.Command, []string) {}})
	}
	return root.SuggestionsFor(name)
}

// explainFlag explains a flag that cannot be parsed.
func explainFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var valueless *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	var malformed *pflag.InvalidSyntaxError
	switch {
	case errors.As(err, &unknown) && cmd.HasSubCommands() && cmd.Flags().NArg() > 0:
		// The flag is one of the command that was meant.
		return &usageError{unknownCommand(cmd, cmd.Flags().Args())}
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			return Usagef("unknown flag -%s (see %s --help)", name, cmd.CommandPath())
		}
		return Usagef("unknown flag --%s%s (see %s --help)", name, suggestion("--", Similar(name, flagNames(cmd))), cmd.CommandPath())
	case errors.As(err, &valueless):
		return Usagef("--%s needs a value", valueless.GetFlag().Name)
	case errors.As(err, &invalid):
		return Usagef("--%s %q: %w", invalid.GetFlag().Name, invalid.GetValue(), reason(invalid.GetFlag(), invalid.Unwrap()))
	case errors.As(err, &malformed):
		return Usagef("malformed flag %q (see %s --help)", malformed.GetSpecifiedFlag(), cmd.CommandPath())
	}
	return &usageError{err}
}

// reason replaces the words of Go for a flag that is a number, a duration or a truth value.
func reason(f *pflag.Flag, err error) error {
	switch f.Value.Type() {
	case "int":
		return errors.New("must be a whole number")
	case "duration":
		return errors.New("must be a time with its unit, such as 30s or 10m")
	case "bool":
		if _, ours := f.Value.(*Parameter); !ours {
			return errors.New("must be true or false")
		}
	}
	return err
}

func flagNames(cmd *cobra.Command) (names []string) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// cobra keeps these annotations of flags. Shells complete by them.
const (
	oneOfAnnotation    = "cobra_annotation_one_required"
	apartAnnotation    = "cobra_annotation_mutually_exclusive"
	togetherAnnotation = "cobra_annotation_required_if_others_set"
)

// checkFlags checks what MarkFlagRequired and its like say of a command's flags.
func checkFlags(cmd *cobra.Command) (err error) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if err != nil {
			return
		}
		if slices.Equal(f.Annotations[cobra.BashCompOneRequiredFlag], []string{"true"}) && !f.Changed {
			err = missing(cmd, f)
			return
		}
		if f.Changed && f.Value.String() == "" && mayNotBeEmpty(f) {
			err = fmt.Errorf("--%s is empty: give a value, or leave it out", f.Name)
			return
		}
		err = checkGroups(cmd, f.Annotations)
	})
	return err
}

// mayNotBeEmpty reports whether an empty value of a flag is a mistake, such as a variable of a shell
// that is not set. Only free text may be empty.
func mayNotBeEmpty(f *pflag.Flag) bool {
	p, ok := f.Value.(*Parameter)
	return !ok || p.Kind != "TEXT"
}

// missing says which flag is missing, and what it can be.
func missing(cmd *cobra.Command, f *pflag.Flag) error {
	if p, ok := f.Value.(*Parameter); ok && p.Choices != nil {
		return fmt.Errorf("--%s is missing: it is one of %s", f.Name, strings.Join(p.Choices, ", "))
	}
	return fmt.Errorf("--%s is missing (see %s --help)", f.Name, cmd.CommandPath())
}

func checkGroups(cmd *cobra.Command, annotations map[string][]string) error {
	for _, group := range annotations[oneOfAnnotation] {
		names := strings.Fields(group)
		if len(given(cmd, names)) == 0 {
			return fmt.Errorf("one of --%s is missing (see %s --help)", strings.Join(names, ", --"), cmd.CommandPath())
		}
	}
	for _, group := range annotations[apartAnnotation] {
		if both := given(cmd, strings.Fields(group)); len(both) > 1 {
			return fmt.Errorf("--%s and --%s exclude each other: give one of them", both[0], both[1])
		}
	}
	for _, group := range annotations[togetherAnnotation] {
		names := strings.Fields(group)
		present := given(cmd, names)
		if len(present) == 0 || len(present) == len(names) {
			continue
		}
		absent := slices.IndexFunc(names, func(name string) bool { return !slices.Contains(present, name) })
		return fmt.Errorf("--%s needs --%s: give both or neither", present[0], names[absent])
	}
	return nil
}

// given returns those of the named flags that are on the command line.
func given(cmd *cobra.Command, names []string) (present []string) {
	for _, name := range names {
		if f := cmd.Flag(name); f != nil && f.Changed {
			present = append(present, name)
		}
	}
	return present
}

// CommandLine returns the line that runs a command again with the flags that it was given, for a
// shell. It leaves out arguments.
func CommandLine(cmd *cobra.Command) string {
	line := cmd.CommandPath()
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch {
		case f.Value.Type() != "bool":
			line += " --" + f.Name + " " + printable.Shell(f.Value.String())
		case f.Value.String() == "true":
			line += " --" + f.Name
		}
	})
	return line
}
