package serve_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/adminclient"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/serve"
	"github.com/kmsgate/kmsgate/internal/softwarekeys"
)

// TestListen tests that Listen listens on all addresses or on none.
func TestListen(t *testing.T) {
	l, err := serve.Listen("", []string{"127.0.0.1:0", "[::1]:0"}, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addresses := l.Addresses()
	if len(addresses) != 2 || addresses[0].(*net.TCPAddr).Port == 0 {
		t.Errorf("Addresses: got %v, want two with their ports", addresses)
	}
	taken := addresses[1].String()
	for _, try := range [][2]string{{taken, ""}, {"127.0.0.1:0", taken}} {
		if _, err := serve.Listen("", []string{"127.0.0.1:0", try[0]}, try[1]); err == nil ||
			!strings.Contains(err.Error(), strconv.Quote(taken)+" is in use by another process") {
			t.Errorf("Listen on an address in use: got %v, want an error that says so", err)
		}
	}
	if _, err := serve.Listen("", []string{"nonsense"}, ""); err == nil ||
		!strings.Contains(err.Error(), `listening on "nonsense"`) {
		t.Errorf("Listen on an invalid address: got %v, want an error with it", err)
	}
	l.Close() // the deferred second Close must do no harm
	again, err := serve.Listen("", []string{taken}, "")
	if err != nil {
		t.Fatalf("Listen after Close: %v", err)
	}
	again.Close()
}

// TestListenTwice tests that Listen names the directory if another process serves it already,
// rather than an address that the process uses.
func TestListenTwice(t *testing.T) {
	dir := t.TempDir()
	l, err := serve.Listen(dir, []string{"127.0.0.1:0"}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	used := []string{l.Addresses()[0].String()}
	if _, err := serve.Listen(dir, used, ""); err == nil || errors.Is(err, appliance.ErrInUse) {
		t.Errorf("Listen on an address in use: got %v, want an error about the address", err)
	}
	unlock, err := appliance.LockDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serve.Listen(dir, used, ""); !errors.Is(err, appliance.ErrInUse) ||
		!strings.Contains(err.Error(), dir) {
		t.Errorf("Listen for a locked directory: got %v, want ErrInUse with the directory", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

// TestServe tests that the API and the admin socket respond, and end together. The path of the
// socket is longer than the kernel's address of a socket.
func TestServe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	text := "instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: unused}\nlisteners: [{address: '127.0.0.1:0'}, {address: '127.0.0.1:0', gateway: shared}]\nadmin: {socket: " + config.SocketIn(dir) + "}\n"
	c, err := config.Parse([]byte(text), dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := serve.Listen(dir, []string{"127.0.0.1:0", "127.0.0.1:0"}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := appliance.Open(t.Context(), c, appliance.Options{Provision: true, Device: softwarekeys.Device, Logger: config.Log{}.Quiet(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := l.ListenAdmin(a); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served, reported := make(chan error, 1), make(chan string, 1)
	go func() { served <- l.Serve(ctx, a, func(about []any) { reported <- slog.Group("", about...).String() }) }()

	var about string
	select {
	case about = <-reported:
	case err := <-served:
		t.Fatalf("Serve: %v", err)
	}
	for _, want := range []string{"instance=kst-test", "token=" + a.Device(), l.Addresses()[0].String(), l.Addresses()[1].String(),
		c.Admin.Socket, "certificate=issued by the gateway's CA", "certificate_expires=20", "audit_line="} {
		if !strings.Contains(about, want) {
			t.Errorf("Serve reports %s, which lacks %q", about, want)
		}
	}
	pem, err := os.ReadFile(c.TLS.CAFile)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("reading the CA: %v", err)
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots},
		DisableKeepAlives: true}}
	for _, address := range l.Addresses() {
		answer, err := client.Get("https://" + address.String() + "/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil || !strings.Contains(string(body), `"Code"`) {
			t.Errorf("GET %s: got %s, %v, want a response with a Code", address, body, err)
		}
	}
	admin := adminclient.Dial(c.Admin.Socket)
	if err := admin.Call(t.Context(), "ListUsers", nil, nil); err != nil {
		t.Error(err)
	}
	if err := admin.Close(); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := net.Dial("tcp", l.Addresses()[0].String()); err == nil {
		t.Error("the listener accepts connections after Serve")
	}
}
