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
// for shutdownTime at most; those that take longer are cut off. When Serve returns, every
// handler has returned. If l fails before ctx is done, Serve returns that error.
func Serve(ctx context.Context, server *http.Server, l net.Listener) error {
	// Shutdown does not wait for handlers whose connections it had to close.
	var handlers sync.WaitGroup
	handler := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		handler.ServeHTTP(w, r)
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := server.Shutdown(ending)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	<-served
	handlers.Wait()
	return err
}
