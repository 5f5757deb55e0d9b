package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
)

// firstUser is the administrator that init makes.
const firstUser = "admin"

func initCommand() *cobra.Command {
	var path string
	var yes bool
	var o appliance.Options
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make the instance that a configuration describes",
		Long: `Make the instance that a configuration describes: the gateway's own keys in the
token, the database, the CA if there is no certificate of your own, and the first
administrator, whose AccessKeySecret is shown this once. It says what it will do
and asks before it does it. Cut off, it can be done again: what is there stays. It
refuses a token with keys, and a directory with an audit log, of an instance whose
database is gone.

With --new-ca it makes another CA, for an instance that has lost the key of its own,
and nothing else. Clients trust the one that was, so every one has to be given the new
certificate. To exchange a CA that is there, move both its files away before.`,
		Example: `  kmsgate config example > /etc/kmsgate/kmsgate.yaml   # and edit it
  kmsgate init --config /etc/kmsgate/kmsgate.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadChecked(path)
			if err != nil {
				return err
			}
			plan, do := initPlan(c), initialize
			if o.NewCA {
				plan, do = newCAPlan(c), newCA
			}
			fmt.Fprint(cmd.ErrOrStderr(), plan)
			if !yes && !cli.Confirmed(cmd.ErrOrStderr(), cmd.InOrStdin()) {
				return errors.New("nothing was done")
			}
			o.Provision, o.Logger = !o.NewCA, c.Log.Quiet(cmd.ErrOrStderr())
			return do(cmd, c, o)
		},
	}
	configFlag(cmd, &path)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&o.NewCA, "new-ca", false, "only make another CA, whose certificate every client has to be given")
	insistOnPINFlag(cmd, &o.InsistOnPIN)
	return cmd
}

// initPlan says what init is going to do.
func initPlan(c *config.Config) string {
	var b strings.Builder
	step := func(format string, args ...any) { fmt.Fprintf(&b, "  - "+format+"\n", args...) }
	fmt.Fprintf(&b, "This makes instance %s, region %s, account %s:\n", c.Instance.ID, c.Instance.Region, c.Instance.Account)
	switch t := c.Token; {
	case t.SoftHSM != "":
		step("a SoftHSM token in %s, for trials", t.SoftHSM)
	case t.Serial != "":
		step("three keys in the token with serial number %s of %s: for sealing, as a sign of life, and for the audit log", t.Serial, t.Module)
	default:
		step("three keys in the token with label %s of %s: for sealing, as a sign of life, and for the audit log", t.Label, t.Module)
	}
	step("the database %s", c.Store.File)
	step("the audit log %s, and %s for auditors", c.Audit.File, c.AuditPublicKeyFile())
	if c.TLS.Certificate == "" {
		step("a CA: its key in %s, its certificate in %s for clients to trust", c.TLS.CAKeyFile, c.TLS.CAFile)
	}
	step("the user %s with an access key and the policy AliyunKMSFullAccess", firstUser)
	return b.String()
}

func initialize(cmd *cobra.Command, c *config.Config, o appliance.Options) (err error) {
	a, err := appliance.Open(cmd.Context(), c, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	records := a.Store.Now()
	if records.AccessKeys().Len() > 0 {
		return errors.New("the instance is initialized already. Run it with `kmsgate serve`; users are made with `kmsgate user create`")
	}
	made, err := a.CreateAdministrator(cmd.Context(), firstUser, "made by kmsgate init")
	if err != nil {
		return fmt.Errorf("making the first administrator: %w", err)
	}
	out := json.NewEncoder(cmd.OutOrStdout())
	out.SetIndent("", "  ")
	return out.Encode(struct{ AccessKeyId, AccessKeySecret string }{made.AccessKeyId, made.AccessKeySecret})
}

func newCAPlan(c *config.Config) string {
	return fmt.Sprintf(`This makes another CA for instance %s: its key in %s, its certificate in %s.
Every client that trusts the one that was has to be given the new certificate.
`, c.Instance.ID, c.TLS.CAKeyFile, c.TLS.CAFile)
}

// newCA makes another CA, which opening the instance does.
func newCA(cmd *cobra.Command, c *config.Config, o appliance.Options) error {
	if c.TLS.Certificate != "" {
		return fmt.Errorf("the configuration names a certificate of your own, %s: a CA would not be used", c.TLS.Certificate)
	}
	a, err := appliance.Open(cmd.Context(), c, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "A new CA is made. Give every client its certificate, %s.\n", c.TLS.CAFile)
	return a.Close()
}

func configCommand() *cobra.Command {
	cmd := cli.Family("config", "Check a configuration, or print one to begin with", "",
		&cobra.Command{
			Use:   "check FILE",
			Short: "Name every mistake in a configuration, and in what it names",
			Args:  cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				if _, err := loadChecked(args[0]); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: no mistakes\n", args[0])
				return nil
			},
		},
		&cobra.Command{
			Use:   "example",
			Short: "Print a configuration with every field, its default and what it means",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := io.WriteString(cmd.OutOrStdout(), config.Example)
				return err
			},
		})
	return cmd
}
