// Package dev runs a gateway for development and tests, with all its files in one directory: kmsgate
// dev with its own SoftHSM token, kmsgate-dev and kmsgatetest with keys in software.
package dev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/internal/ownership"
	"github.com/kmsgate/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/internal/serve"
	"github.com/kmsgate/kmsgate/internal/signals"
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
	// AcceptStoreRollback continues with a database that lacks the last changes.
	AcceptStoreRollback bool

	CAFile   string   // for the CA's certificate; empty: ca.pem in Dir
	Names    []string // DNS names and IP addresses for the certificate, besides those of this machine
	Instance string   // the instance's id; empty: that of the directory, or a random one
	Region   string   // empty: that of the directory, or cn-hangzhou
	Account  string   // empty: that of the directory, or 1000000000000001

	// Seed, if not nil, is what a new directory begins with, instead of a user, a client key and a
	// key of each KeySpec. A directory is always run with the same seed.
	Seed *Seed

	// Command, if not empty, is run when the gateway serves, with the gateway's environment. The
	// gateway ends when the command does.
	Command []string

	seedFile string // set by AddFlags

	// Appliance says what opens the token and writes backups, and has the sink that Log writes to,
	// if there is one. Its other fields are not used.
	Appliance appliance.Options
	// Token, if not nil, returns the token of the configuration file, which other commands read.
	// Without it there is no such file.
	Token func(dir string) config.Token

	Log   io.Writer // nil: nothing is logged
	About []any     // attributes of the program, for the line about the start that Verbose logs

	// Ready, if not nil, is called when the gateway serves, with the path of the file that
	// holds the environment. notices are sentences, without a full stop, about keys that the
	// environment does not name because they are disabled or to be deleted.
	Ready func(envFile string, env Environment, notices []string)
}

// Run creates whatever the directory lacks and serves until ctx is done. A later run in the
// same directory serves the same keys. While the gateway serves, the file env in the
// directory holds an [Environment] for a shell to source.
func Run(ctx context.Context, o Options) (err error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	// An address in use must be found before anything is created.
	listeners, err := serve.Listen(o.Dir, []string{o.Listen}, "")
	if err != nil {
		return err
	}
	defer listeners.Close()
	g := runner{Options: o}
	remove, err := g.prepareDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	defer func() {
		if !errors.Is(err, context.Canceled) || ctx.Err() == nil {
			return
		}
		err = nil // stopped during the start, which the next start completes
		if g.Command != nil {
			err = errNotRun
		}
	}()
	c, err := g.configuration()
	if err != nil {
		return err
	}
	return g.serve(ctx, c, listeners)
}

// A runner is a gateway during a Run.
type runner struct{ Options }

// prepareDir makes g.Dir absolute, or creates a temporary directory, which remove removes.
func (g *runner) prepareDir() (remove func() error, err error) {
	if g.Dir == "" {
		if g.Dir, err = os.MkdirTemp("", "kmsgate-dev-"); err != nil {
			return nil, err
		}
		return func() error { return os.RemoveAll(g.Dir) }, nil
	}
	if g.Dir, err = filepath.Abs(g.Dir); err != nil {
		return nil, err
	}
	// A directory that another user has made could get another env file, which a shell sources.
	if err := ownership.CheckDirectory(g.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("refusing the directory: %w", err)
	}
	return func() error { return nil }, nil
}

func (g *runner) path(name string) string { return filepath.Join(g.Dir, name) }

// configuration generates the configuration. Only the address differs from start to start.
func (g *runner) configuration() (*config.Config, error) {
	c := config.Default()
	c.Directory = g.Dir
	var err error
	if c.Instance, err = g.instance(); err != nil {
		return nil, err
	}
	if g.Token != nil {
		c.Token = g.Token(g.Dir)
	}
	c.Store.File, c.Audit.File = g.path("kmsgate.db"), g.path("audit.log")
	c.TLS.CAFile, c.TLS.CAKeyFile = cmp.Or(g.CAFile, g.path("ca.pem")), g.path("ca-key.pem")
	c.Admin.Socket = config.SocketIn(g.Dir)
	listener := config.DefaultListener()
	listener.Address = g.Listen
	c.Listeners = []config.Listener{listener}
	c.TLS.Names = g.Names
	c.Limits.VersionInterval = 0
	c.Quotas.Dedicated.Other = 0
	if g.Verbose {
		c.Log.Level = "debug"
	}
	return &c, g.checkConfiguration(c)
}

// checkConfiguration checks what the options say, before anything is created.
func (g *runner) checkConfiguration(c config.Config) error {
	if g.Token == nil {
		c.Token = config.Token{SoftHSM: g.path("unused")} // there is no configuration file
	}
	text, err := c.Marshal()
	if err != nil {
		return err
	}
	if _, err := config.Parse(text, g.Dir); err != nil {
		return fmt.Errorf("invalid option (--instance, --region, --account, --name, --listen or --ca-file):\n%w", err)
	}
	return nil
}

// instance returns the instance of the directory, or the one that the options name. They must not
// contradict each other.
func (g *runner) instance() (config.Instance, error) {
	found, err := g.existingInstance()
	if err != nil {
		return found, err
	}
	wanted := config.Instance{ID: g.Instance, Region: g.Region, Account: g.Account}
	if found == (config.Instance{}) {
		return config.Instance{ID: cmp.Or(wanted.ID, newInstanceId()), Region: cmp.Or(wanted.Region, regionId), Account: cmp.Or(wanted.Account, accountId)}, nil
	}
	merged := config.Instance{ID: cmp.Or(wanted.ID, found.ID), Region: cmp.Or(wanted.Region, found.Region), Account: cmp.Or(wanted.Account, found.Account)}
	if merged != found {
		return found, fmt.Errorf("the directory %q has instance %q, region %q, account %q: use another directory, or leave --instance, --region and --account out",
			g.Dir, found.ID, found.Region, found.Account)
	}
	return found, nil
}

// existingInstance returns the instance of the directory, or the zero Instance if there is none yet.
func (g *runner) existingInstance() (config.Instance, error) {
	existing, err := config.LoadWritten(g.path(config.FileName))
	if err == nil {
		return existing.Instance, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return config.Instance{}, err
	}
	if _, err := os.Stat(g.path("kmsgate.db")); err != nil {
		return config.Instance{}, nil
	}
	// The directory is one without a configuration.
	if err := appliance.CheckNotInUse(g.Dir); err != nil {
		return config.Instance{}, err
	}
	db, err := store.OpenFile(g.path("kmsgate.db"))
	if err != nil {
		return config.Instance{}, err
	}
	i := db.Instance()
	return config.Instance{ID: i.InstanceId, Region: i.RegionId, Account: i.AccountId}, db.Close()
}

// serve provisions whatever the directory lacks, and serves until ctx is done.
func (g *runner) serve(ctx context.Context, c *config.Config, l *serve.Listeners) (err error) {
	logger, _ := c.Log.Logger(g.Log)
	o := appliance.Options{
		Provision: true, EchoStringToSign: true, AcceptAuditLoss: g.AcceptAuditLoss,
		AcceptStoreRollback: g.AcceptStoreRollback,
		Device:              g.Appliance.Device, Collectors: g.Appliance.Collectors, Archiver: g.Appliance.Archiver,
		Logger: logger, LogSink: g.Appliance.LogSink, Locked: func() error { return errors.Join(g.removeEnv(), g.checkSeed()) },
	}
	if g.Seed != nil {
		o.Given = g.Seed.given
	}
	a, err := appliance.Open(ctx, c, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if g.Token != nil {
		text, err := c.Marshal()
		if err != nil {
			return err
		}
		if err := durable.Write(g.path(config.FileName), text, 0o600); err != nil {
			return err
		}
	}
	if err := l.ListenAdmin(a); err != nil {
		return err
	}
	provisioned, notices, err := g.provision(ctx, a)
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	for _, notice := range notices {
		logger.Warn(notice)
	}
	began := time.Now()
	defer func() {
		logger.Debug("stopped", "signal", signals.EndedBy(ctx), "uptime", time.Since(began).Round(time.Second))
	}()
	report := func(about []any) { logger.Debug("serving", append(about, g.About...)...) }
	return g.serveUntil(ctx, a, l, report, append(g.describe(c, l), provisioned...), notices)
}

// serveUntil serves until ctx is done or, if there is a command, until that has ended.
func (g *runner) serveUntil(
	ctx context.Context, a *appliance.Appliance, l *serve.Listeners, report func(about []any), env Environment, notices []string,
) error {
	// A command that is asked to end may still use the gateway.
	until := ctx
	if g.Command != nil {
		until = context.WithoutCancel(ctx)
	}
	serving, stop := context.WithCancel(until)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- l.Serve(serving, a, report) }()
	// The kernel has accepted connections since Listen, so a program that now reads env can
	// connect at once.
	if err := durable.Write(g.path(envName), []byte(env.String()), 0o600); err != nil {
		stop()
		return errors.Join(err, <-served)
	}
	a.OnClose("the directory", func() error { return os.Remove(g.path(envName)) })
	if g.Ready != nil {
		g.Ready(g.path(envName), env, notices)
	}
	if g.Command == nil {
		return <-served
	}
	serves, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	ended := make(chan error, 1)
	go func() { ended <- runCommand(ctx, serves, g.Command, env) }()
	select {
	case err := <-ended:
		stop()
		return errors.Join(err, <-served)
	case err := <-served: // the gateway has failed
		giveUp()
		return errors.Join(err, <-ended)
	}
}

// removeEnv removes the file env that a killed gateway leaves. Programs wait for that file
// until this gateway serves.
func (g *runner) removeEnv() error {
	if err := os.Remove(g.path(envName)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// provision creates the keys and credentials that the directory lacks. notices are those of
// Options.Ready.
func (g *runner) provision(ctx context.Context, a *appliance.Appliance) (env Environment, notices []string, err error) {
	if g.Seed != nil {
		a.Server.CarryOutDeletions(ctx) // an interrupted start can have left a key pair with an id of the seed
		return g.applySeed(ctx, a)
	}
	keys, notices, err := Provision(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	clientKey, err := g.clientKey(ctx, a)
	if err != nil {
		return nil, nil, fmt.Errorf("creating a client key: %w", err)
	}
	return append(keys, clientKey...), notices, nil
}

// describe returns the variables that clients need to use the gateway.
func (g *runner) describe(c *config.Config, l *serve.Listeners) Environment {
	address := l.Addresses()[0].(*net.TCPAddr)
	host := address.IP.String()
	if address.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return Environment{
		{"KMSGATE_ENDPOINT", net.JoinHostPort(host, fmt.Sprint(address.Port))},
		{"KMSGATE_CA_FILE", c.TLS.CAFile},
		{"KMSGATE_INSTANCE_ID", c.Instance.ID},
		{"ALIBABA_CLOUD_REGION_ID", c.Instance.Region},
		{"KMSGATE_REGION_ID", c.Instance.Region},
		{"KMSGATE_ACCOUNT_ID", c.Instance.Account},
		{"KMSGATE_ADMIN_SOCKET", c.Admin.Socket},
		{"KMSGATE_AUDIT_FILE", c.Audit.File},
		{"KMSGATE_AUDIT_PUBLIC_KEY", c.AuditPublicKeyFile()},
	}
}

// envName is the name of the file that holds an Environment.
const envName = "env"

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

// ReadEnvironment returns the environment of the gateway that serves in a directory. The error wraps
// fs.ErrNotExist if none serves there.
func ReadEnvironment(dir string) (Environment, error) {
	text, err := os.ReadFile(filepath.Join(dir, envName))
	if err != nil {
		return nil, err
	}
	return ParseEnvironment(string(text))
}

// ParseEnvironment reads what [Environment.String] has written, and nothing else that a shell
// understands.
func ParseEnvironment(text string) (e Environment, err error) {
	for text != "" {
		var name, value string
		var ok bool
		if text, ok = strings.CutPrefix(text, "export "); ok {
			name, text, ok = strings.Cut(text, "=")
		}
		if ok {
			value, text, ok = printable.CutShell(text)
		}
		if !ok || !strings.HasPrefix(text, "\n") {
			return nil, errors.New("kmsgate dev did not write this file (start kmsgate dev again)")
		}
		e, text = append(e, [2]string{name, value}), text[1:]
	}
	return e, nil
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
