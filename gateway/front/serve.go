package front

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// shutdownTime is the time that requests in flight have to end.
const shutdownTime = 10 * time.Second

// Serve serves l until ctx is done. It then closes l, waits up to shutdownTime for the
// requests in flight, and cuts off the rest. If l fails before ctx is done, Serve cuts off
// the requests in flight at once and returns the listener's error. In both cases, every
// handler has returned when Serve returns. Serve sets the server's ConnState.
//
// If l is from [Listen], a connection ends after a request that was not verified ([Authenticated]). A
// header can have 128 fields and 16 KiB of fields.
func Serve(ctx context.Context, server *http.Server, l net.Listener) error {
	var handlers handlerGroup
	server.Handler = handlers.track(server.Handler)
	server.ConnState, server.ConnContext = follow, withConn(server.ConnContext)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		err = errors.Join(err, server.Close())
		handlers.end()
		return err
	case <-ctx.Done():
	}
	timeout, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := server.Shutdown(timeout)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	<-served
	handlers.end()
	return err
}

// A handlerGroup waits for the handlers of a server, because net/http does not: Close returns
// while handlers run, and a request that was read before Close may start its handler later.
type handlerGroup struct {
	mu      sync.Mutex
	ending  bool // no further handler starts; guarded by mu
	running sync.WaitGroup
}

// track returns a handler that counts the calls of h in g. After end, it aborts requests.
func (g *handlerGroup) track(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.begin() {
			panic(http.ErrAbortHandler)
		}
		defer g.running.Done()
		if c, ok := r.Context().Value(connKey{}).(*httpConn); ok {
			c.handle(w)
		}
		h.ServeHTTP(w, r)
	})
}

// begin counts one more handler and reports whether it may start.
func (g *handlerGroup) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ending {
		return false
	}
	g.running.Add(1)
	return true
}

// end keeps further handlers from starting, and returns when all have returned.
func (g *handlerGroup) end() {
	g.mu.Lock()
	g.ending = true
	g.mu.Unlock()
	g.running.Wait()
}
