package front_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
)

// TestServe checks that Serve closes its listener and lets the requests in flight end.
func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		n := newNetwork()
		release := make(chan struct{})
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			<-release
			w.WriteHeader(http.StatusTeapot)
		})}
		served := make(chan error, 1)
		go func() { served <- front.Serve(ctx, server, n) }()
		client := request(t, n)
		synctest.Wait()
		stop()
		synctest.Wait()
		select {
		case err := <-served:
			t.Fatalf("Serve returned with a request in flight: %v", err)
		case <-n.closed:
		default:
			t.Error("the listener is open after the context was canceled")
		}
		close(release)
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil || resp.StatusCode != http.StatusTeapot {
			t.Errorf("the request in flight: got %+v, %v, want status %d", resp, err, http.StatusTeapot)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// TestServeEnds checks that Serve cuts off a request that takes too long, and returns only
// after its handler.
func TestServeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		n := newNetwork()
		ended := false
		server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			time.Sleep(time.Second)
			ended = true
		})}
		served := make(chan error, 1)
		go func() { served <- front.Serve(ctx, server, n) }()
		client := request(t, n)
		synctest.Wait()
		stop()
		began := time.Now()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		// The bubble's clock measures this time.
		if took := time.Since(began); !ended || took < 5*time.Second || took > time.Minute {
			t.Errorf("Serve returned after %v, want 5 s to 1 min; the handler has ended: %v, want true", took, ended)
		}
		if _, err := http.ReadResponse(bufio.NewReader(client), nil); err == nil {
			t.Error("the request that was cut off got a response, want none")
		}
	})
}

// TestServeFails checks that Serve returns the error of a listener that fails, cuts off the
// request in flight, and returns only after its handler.
func TestServeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		ended := false
		server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			time.Sleep(time.Second)
			ended = true
		})}
		served := make(chan error, 1)
		go func() { served <- front.Serve(t.Context(), server, n) }()
		client := request(t, n)
		synctest.Wait()
		n.errs <- errBroken
		if err := <-served; !errors.Is(err, errBroken) {
			t.Errorf("Serve: got error %v, want %v", err, errBroken)
		}
		if !ended {
			t.Error("Serve returned before the handler of the request in flight")
		}
		wantClosed(t, "the connection of the request in flight", client)
	})
}

// TestServeAborts checks that no handler starts after Serve returned. The server can read a
// request, be closed, and call its handler only then. No test can hold the server there, so
// this one calls the server's handler itself.
func TestServeAborts(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	started := false
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { started = true })}
	if err := front.Serve(ctx, server, newNetwork()); err != nil {
		t.Errorf("Serve: %v", err)
	}
	defer func() {
		if got := recover(); got != http.ErrAbortHandler || started {
			t.Errorf("a request after Serve returned: got panic %v, want %v; its handler started: %v",
				got, http.ErrAbortHandler, started)
		}
	}()
	server.Handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
}

// request sends a request through n and returns the client's end of the connection.
func request(t *testing.T, n *network) net.Conn {
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	n.conns <- remoteConn{server, "192.0.2.1:1"}
	if _, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: kms.example\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return client
}
