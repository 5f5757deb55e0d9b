package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/serve"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/softhsm"
	"github.com/kmsgate/kmsgate/store"
)

// What `kmsgate dev` says that it is. The SDKs take any region and account.
const (
	devRegionId  = "cn-hangzhou"
	devAccountId = "1000000000000001"
	devUser      = "dev"
)

// A devGateway is the embedded default: everything in one directory.
type devGateway struct {
	dir     string // absolute
	listen  string
	verbose bool

	acceptAuditLoss bool
}

func devCommand() *cobra.Command {
	var d devGateway
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a gateway on a SoftHSM token of its own, for development and tests",
		Long: `Run a gateway on a SoftHSM token of its own, for development and tests.

It makes what DIR lacks: a configuration, the token, the database, a CA, an
access key with full rights, a client key, and a key of each KeySpec. When it accepts
connections it writes DIR/env, which a shell can source. The same DIR serves the
same keys again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd) },
	}
	cmd.Flags().StringVar(&d.dir, "dir", "", "where everything is kept (default: a temporary directory, removed at the end)")
	cmd.Flags().StringVar(&d.listen, "listen", "127.0.0.1:8443", "address and port to serve HTTPS on; port 0 takes a free one")
	cmd.Flags().BoolVar(&d.verbose, "verbose", false, "log every request")
	acceptAuditLossFlag(cmd, &d.acceptAuditLoss)
	return cmd
}

func (d *devGateway) run(cmd *cobra.Command) (err error) {
	// What can be missing or taken is found before anything is made.
	if _, err := softhsm.Module(); err != nil {
		return err
	}
	listeners, err := serve.Listen([]string{d.listen}, "")
	if err != nil {
		return err
	}
	defer listeners.Close()
	remove, err := d.makeDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	defer func() {
		if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
			err = nil // stopped while starting: the next start completes what there is
		}
	}()
	c, err := d.configuration()
	if err != nil {
		return err
	}
	return d.serve(cmd, c, listeners)
}

// makeDir settles the directory's path; a temporary one is removed in the end.
func (d *devGateway) makeDir() (remove func() error, err error) {
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "kmsgate-dev-"); err != nil {
			return nil, err
		}
		return func() error { return os.RemoveAll(d.dir) }, nil
	}
	d.dir, err = filepath.Abs(d.dir)
	return func() error { return nil }, err
}

func (d *devGateway) path(name string) string { return filepath.Join(d.dir, name) }

// configuration generates what `kmsgate serve` would be told. It is the same at
// every start but for the address.
func (d *devGateway) configuration() (*config.Config, error) {
	c := config.Default()
	c.Directory = d.dir
	var err error
	if c.Instance, err = d.instance(); err != nil {
		return nil, err
	}
	c.Token = config.Token{SoftHSM: d.path("softhsm")}
	c.Store.File, c.Audit.File = d.path("kmsgate.db"), d.path("audit.log")
	c.TLS.CAFile, c.TLS.CAKeyFile = d.path("ca.pem"), d.path("ca-key.pem")
	c.Admin.Socket = config.SocketIn(d.dir)
	listener := config.DefaultListener()
	listener.Address = d.listen
	c.Listeners = []config.Listener{listener}
	c.Limits.VersionInterval = 0
	if d.verbose {
		c.Log.Level = "debug"
	}
	return &c, nil
}

// instance gives the instance that the directory is of, or makes one up.
func (d *devGateway) instance() (config.Instance, error) {
	before, err := config.Load(d.path(config.FileName))
	if err == nil {
		return before.Instance, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return config.Instance{}, err
	}
	is := config.Instance{ID: newInstanceId(), Region: devRegionId, Account: devAccountId}
	if _, err := os.Stat(d.path("kmsgate.db")); err != nil {
		return is, nil
	}
	// Of a kmsgate that wrote no configuration.
	db, err := store.Open(d.path("kmsgate.db"))
	if err != nil {
		return is, err
	}
	if i := db.Now().Instance(); i != (store.Instance{}) {
		is = config.Instance{ID: i.InstanceId, Region: i.RegionId, Account: i.AccountId}
	}
	return is, errors.Join(err, db.Close())
}

// serve provisions what the directory lacks, and serves until the context is
// done.
func (d *devGateway) serve(cmd *cobra.Command, c *config.Config, l *serve.Listeners) (err error) {
	ctx := cmd.Context()
	o := appliance.Options{Provision: true, EchoStringToSign: true, AcceptAuditLoss: d.acceptAuditLoss, Archiver: backup.NewArchiver, Logger: c.Log.Logger(cmd.ErrOrStderr()), Locked: func() error {
		// One that was killed leaves it, and who waits for it waits for this one.
		if err := os.Remove(d.path("env")); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}}
	a, err := appliance.Open(ctx, c, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	text, err := c.Marshal()
	if err != nil {
		return err
	}
	if err := durable.Write(d.path(config.FileName), text, 0o600); err != nil {
		return err
	}
	if err := l.ListenAdmin(a); err != nil {
		return err
	}
	provisioned, err := d.provision(ctx, a)
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	env := append(d.describe(c, l), provisioned...)

	serving, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- l.Serve(serving, a) }()
	// The listener takes connections since it was opened and they are served
	// from here on.
	if err := durable.Write(d.path("env"), []byte(env.String()), 0o600); err != nil {
		stop()
		return errors.Join(err, <-served)
	}
	a.OnClose("the directory", func() error { return os.Remove(d.path("env")) })
	printBanner(cmd.OutOrStdout(), d.path("env"), env)
	return <-served
}

// provision makes what the directory lacks of keys and credentials.
func (d *devGateway) provision(ctx context.Context, a *appliance.Appliance) (environment, error) {
	keys, err := provision(ctx, a)
	if err != nil {
		return nil, err
	}
	clientKey, err := d.devClientKey(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("making a client key: %w", err)
	}
	return append(keys, clientKey...), nil
}

// describe gives what clients have to know of the gateway.
func (d *devGateway) describe(c *config.Config, l *serve.Listeners) environment {
	address := l.Addresses()[0].(*net.TCPAddr)
	host := address.IP.String()
	if address.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return environment{
		{"KMSGATE_ENDPOINT", net.JoinHostPort(host, fmt.Sprint(address.Port))},
		{"KMSGATE_CA_FILE", c.TLS.CAFile},
		{"KMSGATE_INSTANCE_ID", c.Instance.ID},
		{"KMSGATE_REGION_ID", c.Instance.Region},
		{"KMSGATE_ACCOUNT_ID", c.Instance.Account},
		{"KMSGATE_ADMIN_SOCKET", c.Admin.Socket},
		{"KMSGATE_AUDIT_FILE", c.Audit.File},
		{"KMSGATE_AUDIT_PUBLIC_KEY", c.AuditPublicKeyFile()},
	}
}

// An environment is what DIR/env tells: names and values.
type environment [][2]string

// String writes it for a shell to source.
func (e environment) String() string {
	var b strings.Builder
	for _, v := range e {
		fmt.Fprintf(&b, "export %s=%s\n", v[0], printable.Shell(v[1]))
	}
	return b.String()
}

func (e environment) get(name string) string {
	for _, v := range e {
		if v[0] == name {
			return v[1]
		}
	}
	return ""
}
