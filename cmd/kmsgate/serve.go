package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/front"
)

func serveCommand() *cobra.Command {
	var path string
	var m mode
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the instance that `kmsgate init` has made",
		Long: `Run the instance that 'kmsgate init' has made, until it is told to end by SIGTERM
or SIGINT: requests that have arrived are answered first. The exit status is 0 then,
77 if the token did not take the PIN, which a supervisor must not try again, and 1
for everything else.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadChecked(path)
			if err != nil {
				return err
			}
			return serveInstance(cmd.Context(), c, m, cmd)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "the configuration `FILE` (see kmsgate config example)")
	acceptAuditLossFlag(cmd, &m.acceptAuditLoss)
	insistOnPINFlag(cmd, &m.insistOnPIN)
	_ = cmd.MarkFlagRequired("config") // there is such a flag
	return cmd
}

const acceptAuditLossHint = "put the right file back; if it is gone for good, start once with --accept-audit-loss"

func acceptAuditLossFlag(cmd *cobra.Command, accept *bool) {
	cmd.Flags().BoolVar(accept, "accept-audit-loss", false, "go on without audit lines that are gone for good; the log says that you did")
}

func insistOnPINFlag(cmd *cobra.Command, insist *bool) {
	cmd.Flags().BoolVar(insist, "insist-on-pin", false, "use the PIN although the token says that few attempts are left")
}

// loadChecked loads a configuration and looks at what it names.
func loadChecked(path string) (*config.Config, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	return c, c.Check()
}

func serveInstance(ctx context.Context, c *config.Config, m mode, cmd *cobra.Command) (err error) {
	ignoreFileSizeSignal()
	logger := newLogger(cmd.ErrOrStderr(), c.Log)
	listeners, err := listenAll(c) // what can be taken is found first
	if err != nil {
		return err
	}
	defer listeners.close()
	i, err := openInstance(ctx, c, m, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	if err := i.listenAdmin(listeners); err != nil {
		return err
	}
	logger.Info("serving", "instance", c.Instance.ID, "listeners", listeners.addresses())
	return i.serve(ctx, listeners)
}

// ignoreFileSizeSignal makes a file that may not grow any more (ulimit -f) an
// error of the write, like a full disk, and not the process's end.
func ignoreFileSizeSignal() { signal.Ignore(unix.SIGXFSZ) }

// listeners are what an instance is reached through, in the order of the
// configuration.
type listeners struct {
	api     []net.Listener
	metrics net.Listener // nil: none
	admin   net.Listener
}

func listenAll(c *config.Config) (_ *listeners, err error) {
	l := new(listeners)
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for _, how := range c.Listeners {
		api, err := listen(how.Address)
		if err != nil {
			return nil, err
		}
		l.api = append(l.api, api)
	}
	if c.Metrics.Listen != "" {
		if l.metrics, err = listen(c.Metrics.Listen); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is taken by another process: stop it, or give another address (with `kmsgate dev`: --listen; port 0 takes a free one)", address)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	return l, nil
}

// close closes what may be closed already.
func (l *listeners) close() {
	for _, each := range append(slices.Clone(l.api), l.metrics, l.admin) {
		if each != nil {
			_ = each.Close()
		}
	}
}

func (l *listeners) addresses() (all []string) {
	for _, api := range l.api {
		all = append(all, api.Addr().String())
	}
	return all
}

// listenAdmin makes the admin socket. The instance's lock has to be held: it is
// what says that the socket which is there belongs to nobody.
func (i *instance) listenAdmin(l *listeners) (err error) {
	l.admin, err = front.ListenUnix(i.config.Admin.Socket)
	return err
}

// serve serves until ctx is done, or until one listener fails.
func (i *instance) serve(ctx context.Context, l *listeners) error {
	tlsConfig, err := i.tlsConfig(l)
	if err != nil {
		return err
	}
	running, stopRunning := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	background.Go(func() { i.server.Run(running) })
	defer background.Wait()
	defer stopRunning()

	serving, stop := context.WithCancel(ctx)
	defer stop()
	var errs []error
	var mu sync.Mutex // guards errs
	var served sync.WaitGroup
	start := func(serve func(ctx context.Context) error) {
		served.Go(func() {
			err := serve(serving)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			stop() // one for all
		})
	}
	for n, api := range l.api {
		start(func(ctx context.Context) error {
			return i.server.Serve(ctx, api, tlsConfig, listenerOf(i.config.Listeners[n]))
		})
	}
	start(func(ctx context.Context) error { return i.server.ServeAdmin(ctx, l.admin) })
	if l.metrics != nil {
		start(func(ctx context.Context) error { return serveMetrics(ctx, l.metrics, i.server.MetricsHandler()) })
	}
	served.Wait()
	return errors.Join(errs...)
}

func listenerOf(c config.Listener) gateway.Listener {
	return gateway.Listener{
		Gateway: c.Gateway, BusinessOnly: c.Operations == "business", ClientCertificates: c.ClientCertificates,
		MaxConnections: c.MaxConnections, MaxPerSource: c.MaxConnectionsPerSource,
		HeaderTime: c.HeaderTimeout, ReadTime: c.ReadTimeout, IdleTime: c.IdleTimeout,
	}
}

func serveMetrics(ctx context.Context, l net.Listener, h http.Handler) error {
	const enough = 10 * time.Second
	const few = 16 // connections; descriptors are the token's before they are anybody's
	l = netutil.LimitListener(l, few)
	server := &http.Server{Handler: h, ReadTimeout: enough, WriteTimeout: enough, IdleTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// tlsConfig gives the certificate that listeners show: the operator's own, or
// one that the CA issues.
func (i *instance) tlsConfig(l *listeners) (*tls.Config, error) {
	t := i.config.TLS
	if i.ca == nil {
		certificate, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
		if err != nil {
			return nil, fmt.Errorf("the certificate %s: %w", t.Certificate, err)
		}
		return serverTLS(certificate), nil
	}
	id := i.config.Instance.ID
	names := []string{"localhost", "127.0.0.1", "::1", id, id + ".cryptoservice.kms.aliyuncs.com"}
	if hostname, err := os.Hostname(); err == nil { // what a container is called by others
		names = append(names, hostname)
	}
	for _, api := range l.api {
		if address := api.Addr().(*net.TCPAddr); !address.IP.IsUnspecified() {
			names = append(names, address.IP.String())
		}
	}
	names = append(names, t.Names...)
	slices.Sort(names)
	return i.ca.serverConfig(slices.Compact(names))
}
