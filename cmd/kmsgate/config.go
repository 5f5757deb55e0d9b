package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/printable"
)

func (a *operator) configCommand() *cobra.Command {
	var path string
	check := &cobra.Command{
		Use:     "check --config FILE",
		Short:   "List every mistake in a configuration, and in the files that it names",
		Example: `  kmsgate config check --config /etc/kmsgate/kmsgate.yaml`,
		Args:    cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadChecked(path)
			if err != nil {
				return err
			}
			checked := struct{ Config, NotChecked string }{path, "the database and the token were not opened (kmsgate doctor does that)"}
			v := cli.View{Value: checked, Text: fmt.Sprintf("%s: no mistakes; %s\n", printable.Text(path), checked.NotChecked)}
			for _, w := range c.Warnings() {
				v.Warnings = append(v.Warnings, w.String())
			}
			return a.Print(cmd, v)
		},
	}
	configFlag(check, &path)
	example := &cobra.Command{
		Use:     "example",
		Short:   "Print a configuration with every field, its default and its meaning",
		Example: `  kmsgate config example > kmsgate.yaml`,
		Args:    cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text := struct{ Example string }{config.Example}
			return a.Print(cmd, cli.View{Value: text, Text: config.Example})
		},
	}
	return cli.Family("config", "Check a configuration, or print one to start from", "", check, example)
}

// configFlag adds the required flag that names a configuration.
func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "config", "", "configuration `FILE` (see kmsgate config example)")
	_ = cmd.MarkFlagRequired("config") // it was added above
}

// loadChecked loads a configuration and checks the files that it names.
func loadChecked(path string) (*config.Config, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	return c, c.Check()
}
