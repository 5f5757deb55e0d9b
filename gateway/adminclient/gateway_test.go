package adminclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/adminclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/unixsocket/unixsockettest"
)

// A fake is a gateway that records requests.
type fake struct {
	mu       sync.Mutex
	instance string   // what it says
	requests []string // the method and the body of each
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+string(body))
	if f.instance != "" {
		w.Header().Set(kms.InstanceHeader, f.instance)
	}
	if r.Method == http.MethodPost {
		fmt.Fprint(w, "{}")
	}
}

// received returns the methods of the requests, and whether one of them contains the secret.
func (f *fake) received() (methods []string, secret bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		method, body, _ := strings.Cut(r, " ")
		methods = append(methods, method)
		secret = secret || strings.Contains(body, password)
	}
	return methods, secret
}

const password = "Secret-password-1"

// send sends a request with the password.
func send(ctx context.Context, c *adminclient.Client) error {
	return c.Call(ctx, "CreateClientKey", map[string]string{"AapName": "dev", "Password": password}, nil)
}

func serveFake(t *testing.T, l net.Listener, f *fake) {
	t.Helper()
	server := httptest.NewUnstartedServer(f)
	server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
}

// TestStranger calls sockets of other users, and sockets in directories that other users can write.
// They get nothing.
func TestStranger(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("only root can listen as another user")
		}
		t.Skip("only root can listen as another user")
	}
	const stranger, service = 65534, 54321
	for name, test := range map[string]struct {
		listener int // the uid that listens
		dirOwner int
		dirMode  os.FileMode
		owner    int    // of the configured directory; 0: none is configured
		want     string // a part of the error; empty: the request arrives
	}{
		"root":                          {0, 0, 0o700, 0, ""},
		"the service":                   {service, service, 0o700, service, ""},
		"the service, not configured":   {service, 0, 0o700, 0, "belongs to uid 54321"},
		"its directory, not configured": {0, service, 0o700, 0, "belongs to uid 54321"},
		"a stranger":                    {stranger, 0, 0o700, 0, "belongs to uid 65534, and not to root, to you (uid 0)"},
		"a stranger for the service":    {stranger, service, 0o700, service, "belongs to uid 65534"},
		"a stranger's directory":        {0, stranger, 0o755, service, `belongs to uid 65534`},
		"everybody's directory":         {0, 0, 0o777, 0, "is writable by all users"},
		"everybody's sticky directory":  {0, 0, 0o777 | os.ModeSticky, 0, "is writable by all users"},
		"a group's directory":           {0, service, 0o770, service, "is writable by a group"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, test.dirOwner, test.dirOwner), os.Chmod(dir, test.dirMode))
			if err != nil {
				t.Fatal(err)
			}
			socket := filepath.Join(dir, "s")
			f := new(fake)
			serveFake(t, unixsockettest.ListenAs(t, test.listener, socket), f)
			c := adminclient.New(adminclient.Gateway{Socket: socket, Owner: test.owner})
			defer c.Close()
			for _, err := range []error{c.Probe(t.Context()), send(t.Context(), c)} {
				if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, adminclient.ErrUntrusted) ||
					errors.Is(err, kms.ErrNoAnswer) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), socket)) {
					t.Errorf("got %v, want %q", err, test.want)
				}
			}
			if methods, secret := f.received(); secret != (test.want == "") || test.want != "" && methods != nil {
				t.Errorf("received %v, and the password: %v", methods, secret)
			}
		})
	}
}

// TestInstance tests that only the expected instance gets the request, on each connection.
func TestInstance(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{instance: "kst-right"}
	serveFake(t, l, f)
	c := adminclient.New(adminclient.Gateway{Socket: socket, Instance: "kst-right"})
	if err := send(t.Context(), c); err != nil {
		t.Error(err)
	}
	if methods, secret := f.received(); !slices.Equal(methods, []string{"HEAD", "POST"}) || !secret {
		t.Errorf("the right instance received %v", methods)
	}
	c.Close()
	for _, other := range []string{"kst-other", ""} {
		f.mu.Lock()
		f.instance, f.requests = other, nil
		f.mu.Unlock()
		err := send(t.Context(), c)
		if want := fmt.Sprintf("has the instance %q, but the configuration has %q", other, "kst-right"); !errors.Is(err, adminclient.ErrUntrusted) ||
			errors.Is(err, kms.ErrNoAnswer) || !strings.Contains(err.Error(), want) {
			t.Errorf("another gateway at the same socket: got %v, want %q", err, want)
		}
		if methods, secret := f.received(); !slices.Equal(methods, []string{"HEAD"}) || secret {
			t.Errorf("the instance %q received %v, and the password: %v", other, methods, secret)
		}
	}
	if err := c.Probe(t.Context()); err != nil {
		t.Errorf("Probe, which asks for no instance: %v", err)
	}
}

// TestNoInstance tests that a process that does not say its instance gets no request, and that the
// error says that nothing was carried out.
func TestNoInstance(t *testing.T) {
	for _, answer := range []string{
		"", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n" + kms.InstanceHeader + ": kst-right\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + kms.InstanceHeader + ": kst-right\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
	} {
		c := adminclient.New(adminclient.Gateway{Socket: serve(t, answer), Instance: "kst-right"})
		var failed *net.OpError
		if err := send(t.Context(), c); !errors.As(err, &failed) || failed.Op != "dial" || errors.Is(err, kms.ErrNoAnswer) {
			t.Errorf("%q: got %v, want a *net.OpError of dial", answer, err)
		}
		c.Close()
	}
}
