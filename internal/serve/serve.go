// Package serve listens on a gateway's addresses and serves an open appliance there.
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

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
)

// Listeners are a gateway's open listeners. The caller must close them.
type Listeners struct {
	api     []net.Listener // in the order of the configuration
	metrics net.Listener   // nil without metrics
	admin   net.Listener   // nil before ListenAdmin
}

// Listen listens on the addresses of the API, and on that of the metrics unless it is empty.
// If it cannot and another process has locked the appliance's directory dir, the error wraps
// [appliance.ErrInUse]. dir is empty for a directory that does not exist yet.
func Listen(dir string, api []string, metrics string) (*Listeners, error) {
	l, err := listenAll(api, metrics)
	if err == nil {
		return l, nil
	}
	// A second gateway for one directory has the same addresses. The directory is the cause
	// that the operator has to know.
	if dir != "" {
		if inUse := appliance.CheckNotInUse(dir); errors.Is(inUse, appliance.ErrInUse) {
			return nil, inUse
		}
	}
	return nil, err
}

func listenAll(api []string, metrics string) (_ *Listeners, err error) {
	l := new(Listeners)
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	for _, address := range api {
		listener, err := listen(address)
		if err != nil {
			return nil, err
		}
		l.api = append(l.api, listener)
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
		return nil, fmt.Errorf("the address %q is in use by another process (stop that process, or choose another "+
			"address; kmsgate dev takes --listen, with port 0 for any free port)", address)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %q: %w", address, err)
	}
	return l, nil
}

// ListenAdmin listens on the admin socket, and replaces a socket that exists. The caller must
// have the appliance open: its lock guarantees that no running process owns that socket.
func (l *Listeners) ListenAdmin(a *appliance.Appliance) (err error) {
	l.admin, err = front.ListenUnix(a.Config.Admin.Socket)
	return err
}

// Close closes all listeners.
func (l *Listeners) Close() {
	for _, listener := range append(slices.Clone(l.api), l.metrics, l.admin) {
		if listener != nil {
			_ = listener.Close() // Serve may have closed it
		}
	}
}

// Addresses returns the addresses of the API, with the actual port in place of port 0.
func (l *Listeners) Addresses() (all []net.Addr) {
	for _, api := range l.api {
		all = append(all, api.Addr())
	}
	return all
}

// Serve serves the appliance until ctx is done or a listener fails, and then waits for the
// requests in flight. Call ListenAdmin first. Before it serves, it calls report, unless that is
// nil, with attributes for the log that say what is served.
func (l *Listeners) Serve(ctx context.Context, a *appliance.Appliance, report func(about []any)) error {
	tlsConfig, err := a.ServerTLS(l.Addresses()...)
	if err != nil {
		return err
	}
	if report != nil {
		report(append(l.about(a), certificate(a.Config.TLS, tlsConfig)...))
	}
	running, stopRunning := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	background.Go(func() { a.Server.Run(running) })
	go a.RunCertificates(running) // it can wait for the operator's files, and must not delay the end
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
			stop() // when one listener ends, all others must
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

// The bounds of the metrics port. Nobody authenticates there, so the oldest connection makes room for
// a new one. The connections do not count among those of the API, and leave file descriptors to the
// token.
const (
	metricsConnections          = 32
	metricsConnectionsPerSource = 8
	metricsHeaderTime           = 5 * time.Second
	metricsTime                 = 10 * time.Second // for reading a request, and for its answer
	metricsHeader               = 8 << 10          // bytes
)

// serveMetrics serves h on the metrics port until ctx is done.
func serveMetrics(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: metricsHeaderTime, ReadTimeout: metricsTime, WriteTimeout: metricsTime,
		MaxHeaderBytes: metricsHeader, ErrorLog: log.New(io.Discard, "", 0),
	}
	limits := front.Limits{Connections: metricsConnections, PerSource: metricsConnectionsPerSource}
	return front.Serve(ctx, server, front.Listen(l, nil, limits, front.NewProcess(nil, nil)))
}
