package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// firstUser is the name of the administrator that init creates.
const firstUser = "admin"

func (a *operator) initCommand() *cobra.Command {
	var path string
	var yes bool
	var o appliance.Options
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Create the instance that a configuration describes",
		Long: `Create the instance that a configuration describes: the gateway's own keys in the token,
the database, a CA unless you have a certificate of your own, and the first
administrator, whose AccessKeySecret is shown only once. The command lists what it will
do, and asks first. If it is interrupted, run it again: it keeps what exists. It refuses
a token with keys, or a directory with an audit log, of an instance whose database is
missing.

With --new-ca it only creates another CA, for an instance that has lost its CA's key.
Clients trust the old CA, so give every one of them the new certificate. To replace a CA
that exists, first move both its files away.`,
		Example: `  kmsgate config example > /etc/kmsgate/kmsgate.yaml   # and edit it
  kmsgate init --config /etc/kmsgate/kmsgate.yaml`,
		Args: cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadChecked(path)
			if err != nil {
				return err
			}
			plan, do := initPlan(c), a.initialize
			if o.NewCA {
				plan, do = newCAPlan(c), a.newCA
			}
			if yes {
				fmt.Fprint(cmd.ErrOrStderr(), plan)
			} else if err := a.Confirm(cmd, plan); err != nil {
				return err
			}
			o.Provision, o.Logger = !o.NewCA, c.Log.Quiet(cmd.ErrOrStderr())
			return do(cmd, path, c, o)
		},
	}
	configFlag(cmd, &path)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&o.NewCA, "new-ca", false, "only create another CA, whose certificate every client needs")
	cli.InsistOnPINFlag(cmd.Flags(), &o.InsistOnPIN)
	return cmd
}

// initPlan lists what init will do.
func initPlan(c *config.Config) string {
	var b strings.Builder
	step := func(format string, args ...any) { fmt.Fprintf(&b, "  - "+format+"\n", args...) }
	fmt.Fprintf(&b, "This creates instance %s, region %s, account %s:\n", c.Instance.ID, c.Instance.Region, c.Instance.Account)
	switch t := c.Token; {
	case t.SoftHSM != "":
		step("a SoftHSM token in %s, for tests", t.SoftHSM)
	case t.Serial != "":
		step("three keys in the token with serial number %s of module %s: for sealing, for health checks, and for the audit log", t.Serial, t.Module)
	default:
		step("three keys in the token with label %s of module %s: for sealing, for health checks, and for the audit log", t.Label, t.Module)
	}
	step("the database %s", c.Store.File)
	step("the audit log %s, and its public key %s for auditors", c.Audit.File, c.AuditPublicKeyFile())
	if c.TLS.Certificate == "" {
		step("a CA: its key %s, and its certificate %s for clients to trust", c.TLS.CAKeyFile, c.TLS.CAFile)
	}
	step("the user %s with an access key and the policy AliyunKMSFullAccess", firstUser)
	return b.String()
}

func (a *operator) initialize(cmd *cobra.Command, path string, c *config.Config, o appliance.Options) (err error) {
	if err := cli.CheckOutput(); err != nil {
		return err
	}
	opened, err := hardware.Open(cmd.Context(), c, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	if opened.Store.Now().AccessKeys().Len() > 0 {
		return errors.New("the instance is already initialized: run kmsgate serve, or create more users with kmsgate user create")
	}
	created, err := opened.CreateAdministrator(cmd.Context(), firstUser, "created by kmsgate init")
	if err != nil {
		return fmt.Errorf("creating the first administrator: %w", err)
	}
	return a.Print(cmd, cli.View{
		Value: struct{ AccessKeyId, AccessKeySecret string }{created.AccessKeyId, created.AccessKeySecret},
		Next:  "The secret is not shown again. Next: kmsgate serve --config " + printable.Shell(path),
	})
}

func newCAPlan(c *config.Config) string {
	return fmt.Sprintf(`This creates another CA for instance %s: its key %s, and its certificate %s.
Every client that trusts the old CA needs the new certificate.
`, c.Instance.ID, c.TLS.CAKeyFile, c.TLS.CAFile)
}

// newCA creates another CA: opening the instance does that.
func (a *operator) newCA(cmd *cobra.Command, _ string, c *config.Config, o appliance.Options) error {
	if c.TLS.Certificate != "" {
		return fmt.Errorf("no CA was created: the configuration names a certificate of your own, %s", c.TLS.Certificate)
	}
	opened, err := hardware.Open(cmd.Context(), c, o)
	if err != nil {
		return err
	}
	created := struct{ CAFile string }{c.TLS.CAFile}
	err = a.Print(cmd, cli.View{Value: created, Text: fmt.Sprintf("A new CA was created. Give every client its certificate, %s.\n", printable.Text(c.TLS.CAFile))})
	return errors.Join(err, opened.Close())
}
