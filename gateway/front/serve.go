package front

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// shutdownTime is how long requests in flight may take to end.
const shutdownTime = 10 * time.Second

// Serve serves l until ctx is done. It then closes l and lets the requests in flight end,
// for shutdownTime at most; it cuts off those that take longer. If l fails before ctx is
// done, Serve cuts off the requests in flight at once and returns the listener's error. In
// both cases, every handler has returned when Serve returns.
func Serve(ctx context.Context, server *http.Server, l net.Listener) error {
	var handlers handlerGroup
	server.Handler = handlers.track(server.Handler)
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

// track returns h with its calls counted in g. After end, a call aborts its request.
func (g *handlerGroup) track(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.begin() {
			panic(http.ErrAbortHandler)
		}
		defer g.running.Done()
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

// end lets no further handler start, and returns when all have returned.
func (g *handlerGroup) end() {
	g.mu.Lock()
	g.ending = true
	g.mu.Unlock()
	g.running.Wait()
}
