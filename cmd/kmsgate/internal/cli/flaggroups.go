package cli

import "github.com/spf13/cobra"

// FlagGroups say which of a command's flags belong together. [Explain] checks them.
type FlagGroups struct {
	OneOf    []string   // at least one of them is required
	Apart    [][]string // pairs that exclude each other
	Together []string   // a pair: both are given, or neither
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
