// Package dev runs `kmsgate dev`: a gateway on a SoftHSM token of its own, with
// everything in one directory, for development and tests.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/serve"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/softhsm"
	"github.com/kmsgate/kmsgate/store"
)

// What a dev gateway says that it is. The SDKs take any region and account.
const (
	regionId  = "cn-hangzhou"
	accountId = "1000000000000001"
	userName  = "dev"
)

// Options say how a dev gateway runs.
type Options struct {
	Dir             string // everything is kept in it; empty: a temporary one, removed at the end
	Listen          string // address and port for HTTPS; port 0 takes a free one
	Verbose         bool   // log every request
	AcceptAuditLoss bool   // go on without audit lines that are gone

	Log io.Writer // nil means that nothing is logged

	// Ready, if not nil, is called when the gateway serves, with the file that has the
	// environment.
	Ready func(envFile string, env Environment)
}

// Run makes what the directory lacks and serves until ctx is done. The same directory
// serves the same keys again. While the gateway serves, the directory has the file env
// with an [Environment] for a shell to source.
func Run(ctx context.Context, o Options) (err error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	// What can be missing or taken is found before anything is made.
	if _, err := softhsm.Module(); err != nil {
		return err
	}
	listeners, err := serve.Listen([]string{o.Listen}, "")
	if err != nil {
		return err
	}
	defer listeners.Close()
	g := gateway{Options: o}
	remove, err := g.makeDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	defer func() {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			err = nil // stopped while starting: the next start completes what there is
		}
	}()
	c, err := g.configuration()
	if err != nil {
		return err
	}
	return g.serve(ctx, c, listeners)
}

// A gateway is one that runs.
type gateway struct{ Options }

// makeDir makes the directory's path absolute, or makes a temporary directory, which
// remove removes.
func (g *gateway) makeDir() (remove func() error, err error) {
	if g.Dir == "" {
		if g.Dir, err = os.MkdirTemp("", "kmsgate-dev-"); err != nil {
			return nil, err
		}
		return func() error { return os.RemoveAll(g.Dir) }, nil
	}
	g.Dir, err = filepath.Abs(g.Dir)
	return func() error { return nil }, err
}

func (g *gateway) path(name string) string { return filepath.Join(g.Dir, name) }

// configuration generates what `kmsgate serve` would be told. It is the same at
// every start but for the address.
func (g *gateway) configuration() (*config.Config, error) {
	c := config.Default()
	c.Directory = g.Dir
	var err error
	if c.Instance, err = g.instance(); err != nil {
		return nil, err
	}
	c.Token = config.Token{SoftHSM: g.path("softhsm")}
	c.Store.File, c.Audit.File = g.path("kmsgate.db"), g.path("audit.log")
	c.TLS.CAFile, c.TLS.CAKeyFile = g.path("ca.pem"), g.path("ca-key.pem")
	c.Admin.Socket = config.SocketIn(g.Dir)
	listener := config.DefaultListener()
	listener.Address = g.Listen
	c.Listeners = []config.Listener{listener}
	c.Limits.VersionInterval = 0
	if g.Verbose {
		c.Log.Level = "debug"
	}
	return &c, nil
}

// instance returns the instance that the directory is of, or makes one up.
func (g *gateway) instance() (config.Instance, error) {
	before, err := config.LoadWritten(g.path(config.FileName))
	if err == nil {
		return before.Instance, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return config.Instance{}, err
	}
	made := config.Instance{ID: newInstanceId(), Region: regionId, Account: accountId}
	if _, err := os.Stat(g.path("kmsgate.db")); err != nil {
		return made, nil
	}
	// An earlier kmsgate wrote no configuration.
	db, err := store.Open(g.path("kmsgate.db"))
	if err != nil {
		return made, err
	}
	if i := db.Now().Instance(); i != (store.Instance{}) {
		made = config.Instance{ID: i.InstanceId, Region: i.RegionId, Account: i.AccountId}
	}
	return made, errors.Join(err, db.Close())
}

// serve provisions what the directory lacks, and serves until the context is
// done.
func (g *gateway) serve(ctx context.Context, c *config.Config, l *serve.Listeners) (err error) {
	o := appliance.Options{Provision: true, EchoStringToSign: true, AcceptAuditLoss: g.AcceptAuditLoss, Archiver: backup.NewArchiver, Logger: c.Log.Logger(g.Log), Locked: func() error {
		// One that was killed leaves it, and programs wait for it until this one serves.
		if err := os.Remove(g.path("env")); !errors.Is(err, fs.ErrNotExist) {
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
	if err := durable.Write(g.path(config.FileName), text, 0o600); err != nil {
		return err
	}
	if err := l.ListenAdmin(a); err != nil {
		return err
	}
	provisioned, err := g.provision(ctx, a)
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	env := append(g.describe(c, l), provisioned...)

	serving, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- l.Serve(serving, a) }()
	// The listener takes connections since it was opened and they are served
	// from here on.
	if err := durable.Write(g.path("env"), []byte(env.String()), 0o600); err != nil {
		stop()
		return errors.Join(err, <-served)
	}
	a.OnClose("the directory", func() error { return os.Remove(g.path("env")) })
	if g.Ready != nil {
		g.Ready(g.path("env"), env)
	}
	return <-served
}

// provision makes what the directory lacks of keys and credentials.
func (g *gateway) provision(ctx context.Context, a *appliance.Appliance) (Environment, error) {
	keys, err := Provision(ctx, a)
	if err != nil {
		return nil, err
	}
	clientKey, err := g.clientKey(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("making a client key: %w", err)
	}
	return append(keys, clientKey...), nil
}

// describe returns what clients have to know of the gateway.
func (g *gateway) describe(c *config.Config, l *serve.Listeners) Environment {
	address := l.Addresses()[0].(*net.TCPAddr)
	host := address.IP.String()
	if address.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return Environment{
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

// An Environment is what DIR/env has: names of variables, and values.
type Environment [][2]string

// String writes it for a shell to source.
func (e Environment) String() string {
	var b strings.Builder
	for _, v := range e {
		fmt.Fprintf(&b, "export %s=%s\n", v[0], printable.Shell(v[1]))
	}
	return b.String()
}

// Get returns a variable's value.
func (e Environment) Get(name string) string {
	for _, v := range e {
		if v[0] == name {
			return v[1]
		}
	}
	return ""
}
