package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
)

// A Question returns what a person must agree to before a command does something that
// cannot be undone. It is an error if the thing does not exist.
type Question func(ctx context.Context, c target.Caller, parameters map[string]string) (string, error)

// Ask returns a question without looking anything up. {Name} in it is replaced by that
// parameter.
func Ask(question string) Question {
	return func(_ context.Context, _ target.Caller, parameters map[string]string) (string, error) {
		return fill(question, parameters), nil
	}
}

// ErrNotConfirmed means that the answer to a question was not yes.
var ErrNotConfirmed = errors.New("nothing was changed: answer y, or give --yes")

// Existing is [Ask] for a thing that must exist: calling action with parameter, whose value is
// that of from, must succeed.
func Existing(action, parameter, from, question string) Question {
	return func(ctx context.Context, c target.Caller, parameters map[string]string) (string, error) {
		if err := c.Call(ctx, action, map[string]string{parameter: parameters[from]}, nil); err != nil {
			return "", err
		}
		return fill(question, parameters), nil
	}
}

// Confirm asks a person, and returns [ErrNotConfirmed] unless the answer is yes. A program, which
// reads JSON, is not asked: it must give --yes.
func (a *App) Confirm(cmd *cobra.Command, question string) error {
	if a.Output.Value() != OutputTable {
		return ErrNotConfirmed
	}
	fmt.Fprintln(cmd.ErrOrStderr(), strings.TrimSuffix(question, "\n"))
	if !confirmed(cmd.ErrOrStderr(), cmd.InOrStdin()) {
		return ErrNotConfirmed
	}
	return nil
}

// confirmed asks whether to continue, and reports whether the answer is yes. No answer is
// no.
func confirmed(out io.Writer, input io.Reader) bool {
	fmt.Fprint(out, "Continue? [y/N] ")
	answer, err := bufio.NewReader(input).ReadString('\n')
	if err != nil { // no answer, and so no line break on the terminal
		fmt.Fprintln(out)
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

// yesFlag returns the flag that answers a question beforehand.
func yesFlag(usage string) *Parameter {
	return &Parameter{Flag: "yes", Short: "y", Kind: "bool", Usage: usage}
}

// isSet reports whether a flag without a value was given.
func (p *Parameter) isSet() bool { return len(p.Values) > 0 && p.Value() == "true" }
