package serve_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/serve"
	"github.com/kmsgate/kmsgate/internal/softwarekeys"
)

// startMetrics creates an appliance, serves it until the test ends, and returns the address of its metrics.
func startMetrics(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	c, err := config.Parse([]byte("instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: unused}\n"+
		"listeners: [{address: '127.0.0.1:0'}]\nmetrics: {listen: '127.0.0.1:0'}\nadmin: {socket: "+config.SocketIn(dir)+"}\n"), dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := serve.Listen(dir, []string{"127.0.0.1:0"}, c.Metrics.Listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	a, err := appliance.Open(t.Context(), c, appliance.Options{Provision: true, Device: softwarekeys.Device, Logger: config.Log{}.Quiet(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.ListenAdmin(a); err != nil {
		t.Fatal(errors.Join(err, a.Close()))
	}
	ctx, stop := context.WithCancel(context.Background())
	served, reported := make(chan error, 1), make(chan string, 1)
	go func() {
		served <- l.Serve(ctx, a, func(about []any) {
			for i := 0; i+1 < len(about); i += 2 {
				if about[i] == "metrics" {
					reported <- about[i+1].(string)
				}
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-served, a.Close()); err != nil {
			t.Error(err)
		}
	})
	select {
	case address = <-reported:
	case err := <-served:
		served <- nil
		t.Fatalf("Serve: %v", err)
	}
	return address
}

// askMetrics sends a request on a connection, and returns the status of the answer.
func askMetrics(conn net.Conn, path, field string) (status int, err error) {
	_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: kms.example\r\n%s\r\n", path, field) // may be cut off
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, errors.Join(err, answer.Body.Close())
}

// TestMetricsPort keeps many connections to the metrics port open that are idle, silent or in the middle
// of a request. The next one is served, even from the same source.
func TestMetricsPort(t *testing.T) {
	address := startMetrics(t)
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for _, path := range []string{"/live", "/ready", "/metrics"} {
		for range 16 {
			dial()
			if _, err := io.WriteString(dial(), "GET /live HTTP/1.1\r\n"); err != nil {
				t.Fatal(err)
			}
			if status, err := askMetrics(dial(), path, ""); status != http.StatusOK {
				t.Fatalf("GET %s: got status %d, %v, want 200", path, status, err)
			}
		}
	}
	if status, err := askMetrics(dial(), "/live", "A: "+strings.Repeat("a", 7<<10)+"\r\n"); status != http.StatusOK {
		t.Errorf("a header of 7 KiB: got status %d, %v, want 200", status, err)
	}
	if status, err := askMetrics(dial(), "/live", "A: "+strings.Repeat("a", 13<<10)+"\r\n"); err == nil && status == http.StatusOK {
		t.Error("a header of 13 KiB is accepted, want at most 8 KiB")
	}
}
