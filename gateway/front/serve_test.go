package front_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
)

// TestServe lets the requests in flight end, and takes no further ones.
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
			t.Error("the listener is open")
		}
		close(release)
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil || resp.StatusCode != http.StatusTeapot {
			t.Errorf("the request in flight: %+v, %v", resp, err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// TestServeEnds: a request that takes too long is cut off, and Serve returns only when
// its handler has.
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
		if took := time.Since(began); !ended || took < 5*time.Second || took > time.Minute { // of the bubble's time
			t.Errorf("after %v; the handler has ended: %v", took, ended)
		}
		if _, err := http.ReadResponse(bufio.NewReader(client), nil); err == nil {
			t.Error("there is an answer")
		}
	})
}

// TestServeFails returns what the listener failed with.
func TestServeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		go func() { n.errs <- errBroken }()
		if err := front.Serve(t.Context(), &http.Server{Handler: http.NotFoundHandler()}, n); !errors.Is(err, errBroken) {
			t.Errorf("Serve: %v", err)
		}
	})
}

// request sends a request to a network.
func request(t *testing.T, n *network) net.Conn {
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	n.conns <- from{server, "192.0.2.1:1"}
	if _, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: kms.example\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return client
}
