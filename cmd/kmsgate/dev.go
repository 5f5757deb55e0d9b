package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/sealed"
	"github.com/kmsgate/kmsgate/hsm/token"
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

	closers []func() error // in the order of opening
}

func devCommand() *cobra.Command {
	var d devGateway
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a gateway on a SoftHSM token of its own, for development and tests",
		Long: `Run a gateway on a SoftHSM token of its own, for development and tests.

It makes what DIR lacks: the token, the database, a CA, an access key with full
rights and a key of each KeySpec. When it accepts connections it writes DIR/env,
which a shell can source. The same DIR serves the same keys again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd) },
	}
	cmd.Flags().StringVar(&d.dir, "dir", "", "where everything is kept (default: a temporary directory, removed at the end)")
	cmd.Flags().StringVar(&d.listen, "listen", "127.0.0.1:8443", "address and port to serve HTTPS on; port 0 takes a free one")
	cmd.Flags().BoolVar(&d.verbose, "verbose", false, "log every request")
	return cmd
}

func (d *devGateway) run(cmd *cobra.Command) (err error) {
	// What can be missing or taken is found before anything is made.
	if _, err := softhsm.Module(); err != nil {
		return err
	}
	listener, err := listen(d.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	remove, err := d.makeDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	unlock, err := lockDir(d.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	defer func() {
		if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
			err = nil // stopped while starting: the next start completes what there is
		}
	}()
	level := slog.LevelInfo
	if d.verbose {
		level = slog.LevelDebug
	}
	logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	return d.serve(cmd, listener, logger)
}

func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is taken by another process: stop it, or give another address with --listen (port 0 takes a free one)", address)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	return l, nil
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

// serve provisions what the directory lacks, serves until the context is done,
// and closes everything in the opposite order.
func (d *devGateway) serve(cmd *cobra.Command, listener net.Listener, logger *slog.Logger) (err error) {
	ctx := cmd.Context()
	if err := os.Remove(d.path("env")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	ca, err := openAuthority(d.dir)
	if err != nil {
		return err
	}
	server, db, err := d.openGateway(ctx, ca, logger)
	if err != nil {
		return err
	}
	env, tlsConfig, err := d.describe(listener, db, ca)
	if err != nil {
		return err
	}
	provisioned, err := provision(ctx, server, db)
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	env = append(env, provisioned...)

	serving, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- server.Serve(serving, listener, tlsConfig) }()
	// The listener takes connections since it was opened and they are served
	// from here on.
	if err := writeFile(d.path("env"), []byte(env.String()), 0o600); err != nil {
		stop()
		return errors.Join(err, <-served)
	}
	d.closing("the directory", func() error { return os.Remove(d.path("env")) })
	printBanner(cmd.OutOrStdout(), d.path("env"), env)
	return <-served
}

// closing remembers what is to be closed in the end.
func (d *devGateway) closing(what string, close func() error) {
	d.closers = append(d.closers, func() error {
		if err := close(); err != nil {
			return fmt.Errorf("closing %s: %w", what, err)
		}
		return nil
	})
}

func (d *devGateway) close() (err error) {
	for _, close := range slices.Backward(d.closers) {
		err = errors.Join(err, close())
	}
	return err
}

// openGateway opens what a gateway stands on, and the gateway.
func (d *devGateway) openGateway(ctx context.Context, ca *authority, logger *slog.Logger) (*gateway.Server, *store.Store, error) {
	keys, tok, err := d.openToken(logger)
	if err != nil {
		return nil, nil, err
	}
	d.closing("the token", tok.Close)
	db, err := store.Open(d.path("kmsgate.db"))
	if err != nil {
		return nil, nil, err
	}
	d.closing("the database", db.Close)
	log, err := audit.Open(d.path("audit.log"))
	if err != nil {
		return nil, nil, err
	}
	d.closing("the audit log", log.Close)
	if err := devInstance(db); err != nil {
		return nil, nil, err
	}
	server, err := gateway.New(ctx, gateway.Config{
		Store: db, Backend: keys, Sealer: tok, Audit: log, Logger: logger,
		CACertificate: ca.certificate(), EchoStringToSign: true, Spare: true, MinVersionInterval: -1,
	})
	return server, db, err
}

// describe gives what clients have to know of the gateway, and the certificate
// that it shows them.
func (d *devGateway) describe(listener net.Listener, db *store.Store, ca *authority) (environment, *tls.Config, error) {
	var instance store.Instance
	err := db.View(func(tx *store.Tx) error {
		instance = tx.Instance()
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	endpoint, names := endpointOf(listener, instance)
	tlsConfig, err := ca.serverConfig(names)
	return environment{
		{"KMSGATE_ENDPOINT", endpoint},
		{"KMSGATE_CA_FILE", ca.certFile},
		{"KMSGATE_INSTANCE_ID", instance.InstanceId},
		{"KMSGATE_REGION_ID", instance.RegionId},
		{"KMSGATE_ACCOUNT_ID", instance.AccountId},
	}, tlsConfig, err
}

// openToken opens the SoftHSM token, making it first if there is none, and what
// makes and uses keys in it.
func (d *devGateway) openToken(logger *slog.Logger) (hsm.Backend, *token.Token, error) {
	soft, err := softhsm.Open(d.path("softhsm"), func(module, label, officerPIN, userPIN string) error {
		return token.Init(module, label, token.PIN(officerPIN), token.PIN(userPIN))
	})
	if err != nil {
		return nil, nil, err
	}
	// The token can be lost before there is anything to drop.
	var software atomic.Pointer[sealed.Backend]
	tok, err := token.Open(token.Config{
		Module:      soft.Module,
		Label:       softhsm.Label,
		PIN:         token.PIN(soft.PIN()),
		Provision:   true,
		BeforeLogin: soft.Guard,
		AfterChange: soft.Flush,
		OnLoss: func() {
			if s := software.Load(); s != nil {
				s.DropAll()
			}
		},
		OnHang: func(err error) {
			logger.Error("exiting to be restarted", "reason", err)
			os.Exit(1)
		},
		Logger: logger,
	})
	if err != nil {
		return nil, nil, err
	}
	software.Store(sealed.New(tok))
	return hsm.Route{Token: tok, Sealed: software.Load()}, tok, nil
}

// devInstance makes up an instance for a database that has none yet.
func devInstance(db *store.Store) error {
	return db.Update(func(tx *store.Tx) error {
		if tx.Instance() != (store.Instance{}) {
			return nil
		}
		return tx.SetInstance(store.Instance{InstanceId: newInstanceId(), RegionId: devRegionId, AccountId: devAccountId})
	})
}

// endpointOf gives the endpoint that clients on this machine use and the names
// that the server's certificate is for.
func endpointOf(l net.Listener, instance store.Instance) (endpoint string, names []string) {
	names = []string{"localhost", "127.0.0.1", "::1", instance.InstanceId, instance.InstanceId + ".cryptoservice.kms.aliyuncs.com"}
	address := l.Addr().(*net.TCPAddr)
	host := address.IP.String()
	if address.IP.IsUnspecified() {
		host = "127.0.0.1"
		if hostname, err := os.Hostname(); err == nil { // what a container is called by others
			names = append(names, hostname)
		}
	}
	if !slices.Contains(names, host) {
		names = append(names, host)
	}
	return net.JoinHostPort(host, fmt.Sprint(address.Port)), names
}

// An environment is what DIR/env tells: names and values.
type environment [][2]string

// String writes it for a shell to source.
func (e environment) String() string {
	var b strings.Builder
	for _, v := range e {
		fmt.Fprintf(&b, "export %s=%s\n", v[0], shellQuote(v[1]))
	}
	return b.String()
}

// shellQuote quotes what is more than a word.
func shellQuote(s string) string {
	plain := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/:[]@%+,"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (e environment) get(name string) string {
	for _, v := range e {
		if v[0] == name {
			return v[1]
		}
	}
	return ""
}
