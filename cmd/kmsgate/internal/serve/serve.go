// Package serve listens on a gateway's addresses and serves an open appliance there until
// told to stop.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/front"
)

// Listeners are the addresses that this process has taken. Close them.
type Listeners struct {
	api     []net.Listener // in the order of the configuration
	metrics net.Listener   // nil: none
	admin   net.Listener   // nil before ListenAdmin
}

// Listen takes the addresses of the API, and that of the metrics unless it is empty.
func Listen(api []string, metrics string) (_ *Listeners, err error) {
	l := new(Listeners)
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	for _, address := range api {
		taken, err := listen(address)
		if err != nil {
			return nil, err
		}
		l.api = append(l.api, taken)
	}
	if metrics != "" {
		if l.metrics, err = listen(metrics); err != nil {
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

// ListenAdmin makes the admin socket. The caller must have the appliance open: its lock
// is what says that a socket which exists belongs to nobody.
func (l *Listeners) ListenAdmin(a *appliance.Appliance) (err error) {
	l.admin, err = front.ListenUnix(a.Config.Admin.Socket)
	return err
}

// Close closes all listeners that are open still.
func (l *Listeners) Close() {
	for _, each := range append(slices.Clone(l.api), l.metrics, l.admin) {
		if each != nil {
			_ = each.Close() // it may be closed already
		}
	}
}

// Addresses returns the addresses of the API, with the ports that port 0 has taken.
func (l *Listeners) Addresses() (all []net.Addr) {
	for _, api := range l.api {
		all = append(all, api.Addr())
	}
	return all
}

// Serve serves the appliance until ctx is done or one listener fails, and then lets the
// requests in flight end. ListenAdmin comes before it.
func (l *Listeners) Serve(ctx context.Context, a *appliance.Appliance) error {
	tlsConfig, err := a.ServerTLS(l.Addresses()...)
	if err != nil {
		return err
	}
	running, stopRunning := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	background.Go(func() { a.Server.Run(running) })
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
			stop() // if one listener ends, all do
		})
	}
	for n, api := range l.api {
		start(func(ctx context.Context) error {
			return a.Server.Serve(ctx, api, tlsConfig, listenerOf(a.Config.Listeners[n]))
		})
	}
	start(func(ctx context.Context) error { return a.Server.ServeAdmin(ctx, l.admin) })
	if l.metrics != nil {
		start(func(ctx context.Context) error { return serveMetrics(ctx, l.metrics, a.Server.MetricsHandler()) })
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
	const timeout = 10 * time.Second
	const maxConnections = 16 // the token needs the descriptors
	l = netutil.LimitListener(l, maxConnections)
	server := &http.Server{Handler: h, ReadTimeout: timeout, WriteTimeout: timeout, IdleTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
