package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// FlagGroups say which of a command's flags go together. They are marked as cobra has it,
// for shells to complete by, and checked before cobra does, which would say in words of its
// own what is wrong.
type FlagGroups struct {
	OneOf    []string   // at least one of them is needed
	Apart    [][]string // pairs that cannot be given together
	Together []string   // a pair of which both or neither are given
}

func (g FlagGroups) addTo(cmd *cobra.Command) {
	if g.OneOf != nil {
		cmd.MarkFlagsOneRequired(g.OneOf...)
	}
	for _, pair := range g.Apart {
		cmd.MarkFlagsMutuallyExclusive(pair...)
	}
	if g.Together != nil {
		cmd.MarkFlagsRequiredTogether(g.Together...)
	}
}

func (g FlagGroups) check(cmd *cobra.Command) error {
	if n := len(g.OneOf); n > 0 && given(cmd, g.OneOf) == 0 {
		return fmt.Errorf("--%s or --%s is missing: %s", strings.Join(g.OneOf[:n-1], ", --"), g.OneOf[n-1], cmd.UseLine())
	}
	for _, pair := range g.Apart {
		if given(cmd, pair) > 1 {
			return fmt.Errorf("--%s and --%s cannot be given together", pair[0], pair[1])
		}
	}
	if given(cmd, g.Together) == 1 {
		there, missing := g.Together[0], g.Together[1]
		if !cmd.Flag(there).Changed {
			there, missing = missing, there
		}
		return fmt.Errorf("--%s is given without --%s: it takes both, or neither", there, missing)
	}
	return nil
}

// given counts those of some flags that the command line gives.
func given(cmd *cobra.Command, flags []string) (n int) {
	for _, flag := range flags {
		if cmd.Flag(flag).Changed {
			n++
		}
	}
	return n
}
