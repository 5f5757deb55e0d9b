package adminclient_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/adminclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// serve answers every request at a socket with an answer, and then closes the connection.
func serve(t *testing.T, answer string) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			fmt.Fprint(conn, answer)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return socket
}

// TestNoAnswer distinguishes a request that a gateway took and did not answer from one that it did not
// take, and from a caller that gave up.
func TestNoAnswer(t *testing.T) {
	for answer, want := range map[string]bool{
		"": true, // the connection ends
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"Value\":":            true,
		"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>":          true,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}":                       false,
		"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\n{\"Code\":\"x\"}": false,
	} {
		err := adminclient.Dial(serve(t, answer)).Call(t.Context(), "ListUsers", nil, new(struct{ Value string }))
		if errors.Is(err, kms.ErrNoAnswer) != want {
			t.Errorf("%q: got %v, want ErrNoAnswer %v", answer, err, want)
		}
	}
	if err := adminclient.Dial(filepath.Join(t.TempDir(), "none")).Call(t.Context(), "ListUsers", nil, nil); err == nil || errors.Is(err, kms.ErrNoAnswer) {
		t.Errorf("without a gateway: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := adminclient.Dial(serve(t, "")).Call(ctx, "ListUsers", nil, nil); !errors.Is(err, context.Canceled) || errors.Is(err, kms.ErrNoAnswer) {
		t.Errorf("cancelled: got %v", err)
	}
}
