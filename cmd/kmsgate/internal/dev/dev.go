// Package dev runs `kmsgate dev`: a gateway for development and tests, with a dedicated
// SoftHSM token and all other files in one directory.
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

// The identity of a dev gateway. The SDKs accept any region and account.
const (
	regionId  = "cn-hangzhou"
	accountId = "1000000000000001"
	userName  = "dev"
)

// Options configure a dev gateway.
type Options struct {
	Dir             string // holds all files; empty: a temporary directory, removed at the end
	Listen          string // address and port for HTTPS; port 0 is any free port
	Verbose         bool   // log every request
	AcceptAuditLoss bool   // continue although audit lines are lost

	Log io.Writer // nil: nothing is logged

	// Ready, if not nil, is called when the gateway serves, with the path of the file that
	// holds the environment.
	Ready func(envFile string, env Environment)
}

// Run creates whatever the directory lacks and serves until ctx is done. A later run in the
// same directory serves the same keys. While the gateway serves, the file env in the
// directory holds an [Environment] for a shell to source.
func Run(ctx context.Context, o Options) (err error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	// A missing module or an address in use must be found before anything is created.
	if _, err := softhsm.Module(); err != nil {
		return err
	}
	listeners, err := serve.Listen(o.Dir, []string{o.Listen}, "")
	if err != nil {
		return err
	}
	defer listeners.Close()
	g := gateway{Options: o}
	remove, err := g.prepareDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	defer func() {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			err = nil // stopped during the start, which the next start completes
		}
	}()
	c, err := g.configuration()
	if err != nil {
		return err
	}
	return g.serve(ctx, c, listeners)
}

// A gateway is a dev gateway during a Run.
type gateway struct{ Options }

// prepareDir makes g.Dir absolute, or creates a temporary directory, which remove removes.
func (g *gateway) prepareDir() (remove func() error, err error) {
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

// configuration generates the configuration. Only the address differs from start to start.
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

// instance returns the instance that the directory belongs to, or a new one.
func (g *gateway) instance() (config.Instance, error) {
	existing, err := config.LoadWritten(g.path(config.FileName))
	if err == nil {
		return existing.Instance, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return config.Instance{}, err
	}
	instance := config.Instance{ID: newInstanceId(), Region: regionId, Account: accountId}
	if _, err := os.Stat(g.path("kmsgate.db")); err != nil {
		return instance, nil
	}
	// An earlier version of kmsgate wrote no configuration.
	db, err := store.Open(g.path("kmsgate.db"))
	if err != nil {
		return instance, err
	}
	if i := db.Now().Instance(); i != (store.Instance{}) {
		instance = config.Instance{ID: i.InstanceId, Region: i.RegionId, Account: i.AccountId}
	}
	return instance, errors.Join(err, db.Close())
}

// serve provisions whatever the directory lacks, and serves until ctx is done.
func (g *gateway) serve(ctx context.Context, c *config.Config, l *serve.Listeners) (err error) {
	a, err := appliance.Open(ctx, c, appliance.Options{
		Provision: true, EchoStringToSign: true, AcceptAuditLoss: g.AcceptAuditLoss,
		Archiver: backup.NewArchiver, Logger: c.Log.Logger(g.Log), Locked: g.removeEnv,
	})
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
	// The kernel has accepted connections since Listen, so a program that now reads env can
	// connect at once.
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

// removeEnv removes the file env that a killed gateway leaves. Programs wait for that file
// until this gateway serves.
func (g *gateway) removeEnv() error {
	if err := os.Remove(g.path("env")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// provision creates the keys and credentials that the directory lacks.
func (g *gateway) provision(ctx context.Context, a *appliance.Appliance) (Environment, error) {
	keys, err := Provision(ctx, a)
	if err != nil {
		return nil, err
	}
	clientKey, err := g.clientKey(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("creating a client key: %w", err)
	}
	return append(keys, clientKey...), nil
}

// describe returns the variables that clients need to use the gateway.
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

// An Environment is the content of DIR/env: pairs of a variable's name and its value.
type Environment [][2]string

// String returns the export commands for a shell to source.
func (e Environment) String() string {
	var b strings.Builder
	for _, v := range e {
		fmt.Fprintf(&b, "export %s=%s\n", v[0], printable.Shell(v[1]))
	}
	return b.String()
}

// Get returns a variable's value, or "" if there is no such variable.
func (e Environment) Get(name string) string {
	for _, v := range e {
		if v[0] == name {
			return v[1]
		}
	}
	return ""
}
