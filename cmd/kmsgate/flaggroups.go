package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// flagGroups are what a command's flags have to do with each other. They are
// marked as cobra has it, for shells to complete by, and checked before cobra
// does, which would tell in words of its own what is wrong.
type flagGroups struct {
	oneOf    []string   // at least one of them is needed
	apart    [][]string // pairs that cannot be given together
	together []string   // a pair of which both or neither are given
}

func (g flagGroups) addTo(cmd *cobra.Command) {
	if g.oneOf != nil {
		cmd.MarkFlagsOneRequired(g.oneOf...)
	}
	for _, pair := range g.apart {
		cmd.MarkFlagsMutuallyExclusive(pair...)
	}
	if g.together != nil {
		cmd.MarkFlagsRequiredTogether(g.together...)
	}
}

func (g flagGroups) check(cmd *cobra.Command) error {
	if n := len(g.oneOf); n > 0 && given(cmd, g.oneOf) == 0 {
		return fmt.Errorf("--%s or --%s is missing: %s", strings.Join(g.oneOf[:n-1], ", --"), g.oneOf[n-1], cmd.UseLine())
	}
	for _, pair := range g.apart {
		if given(cmd, pair) > 1 {
			return fmt.Errorf("--%s and --%s cannot be given together", pair[0], pair[1])
		}
	}
	if given(cmd, g.together) == 1 {
		there, missing := g.together[0], g.together[1]
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
