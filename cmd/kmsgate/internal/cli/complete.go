package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// A Completer returns the names that a gateway knows.
type Completer func(ctx context.Context, c target.Caller) ([]string, error)

// completeTime bounds how long a person at a prompt waits for names.
const completeTime = 2 * time.Second

// completeFrom returns what completes a parameter from a running gateway. Without one there
// is nothing to offer: completing never opens a stopped gateway, since that logs in to its
// token.
func (a *App) completeFrom(p *Parameter) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
		defer cancel()
		c, err := a.Dialer.DialRunning(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		names, err := p.Complete(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		// A shell would split a name at a blank or run what a name hides.
		names = slices.DeleteFunc(names, func(name string) bool {
			return !strings.HasPrefix(name, begun) || printable.Text(name) != name || strings.ContainsAny(name, " \t\n")
		})
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeArguments returns what completes a command's arguments.
func (a *App) completeArguments(arguments []*Parameter) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(arguments) || arguments[len(args)].Complete == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.completeFrom(arguments[len(args)])(cmd, args, begun)
	}
}

// NamesOf returns a completer of an operation that answers with a list.
func NamesOf[T, Item any](action string, items func(answer T) []Item, name func(Item) string) Completer {
	return func(ctx context.Context, c target.Caller) (names []string, err error) {
		var answer T
		err = c.Call(ctx, action, nil, &answer)
		for _, item := range items(answer) {
			names = append(names, name(item))
		}
		return names, err
	}
}

// NamesInPages is [NamesOf] for an operation that answers in pages.
func NamesInPages[Page, Item any](list target.List[Page, Item], name func(Item) string) Completer {
	return func(ctx context.Context, c target.Caller) (names []string, err error) {
		items, err := list.All(ctx, c, nil)
		for _, item := range items {
			names = append(names, name(item))
		}
		return names, err
	}
}
