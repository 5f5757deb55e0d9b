package front_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/limit"
)

// A site serves HTTP on a network. A request of /in authenticates its caller, who has an IPv4 address. A
// site must be used in a synctest bubble.
type site struct {
	t       *testing.T
	network *network
	known   *limit.Known
	process *front.Process
}

func newSite(t *testing.T, limits front.Limits) *site {
	known := limit.NewKnown()
	s := serveSite(t, limits, front.NewProcess(known, nil), nil)
	s.known = known
	return s
}

// serveSite returns a site without TLS if config is nil.
func serveSite(t *testing.T, limits front.Limits, process *front.Process, config *tls.Config) *site {
	s := &site{t, newNetwork(), limit.NewKnown(), process}
	handler := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/in") {
			front.Authenticated(r.Context())
			s.known.Add(netip.PrefixFrom(netip.MustParseAddrPort(r.RemoteAddr).Addr(), 32))
		}
		if r.URL.Path == "/out" {
			front.Unauthenticated(r.Context())
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}
	server := &http.Server{Handler: http.HandlerFunc(handler), ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 256 << 10}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- front.Serve(ctx, server, front.Listen(s.network, config, limits, s.process)) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// dial connects from an address.
func (s *site) dial(source string) net.Conn {
	client, server := net.Pipe()
	s.network.conns <- remoteConn{server, address(source)}
	s.t.Cleanup(func() { client.Close() })
	return client
}

// visit connects from an address and sends a request for path. It reports whether that was answered.
func (s *site) visit(source, path string) (client net.Conn, answered bool) {
	client = s.dial(source)
	return client, get(client, path)
}

// begin connects from an address and sends the beginning of a request.
func (s *site) begin(source string) (client net.Conn) {
	client = s.dial(source)
	go func() { _, _ = io.WriteString(client, "GET / HTTP/1.1\r\n") }()
	synctest.Wait()
	return client
}

// get sends a request for path, and reports whether it was answered.
func get(client net.Conn, path string) bool {
	return send(client, "GET "+path+" HTTP/1.1\r\nHost: kms.example\r\n\r\n") == http.StatusOK
}

// send sends the text of a request, and returns the status of the answer. It is 0 if there is none.
func send(client net.Conn, request string) (status int) {
	go func() { _, _ = io.WriteString(client, request) }() // fails if the server does not read all of it
	resp, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0
	}
	return resp.StatusCode
}

// TestFlood has unknown sources take all connections that they can get, again and again. A client
// from a known source always gets a connection, and the one on which it authenticated stays open. So
// it is if callers who never authenticate come from its own source.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, front.Limits{Connections: 16, PerSource: 4})
		const client = "203.0.113.9:1"
		first, ok := s.visit(client, "/in")
		if !ok {
			t.Fatal("the first request is not answered")
		}
		for round := range 20 {
			for source := range 8 {
				s.begin(fmt.Sprintf("192.0.2.%d:%d", source, round)) // stays open
			}
			for n := range 4 {
				s.visit(client, fmt.Sprintf("/%d", n))
				s.begin(client)
				s.dial(client) // silent
			}
			again, ok := s.visit(client, "/in")
			if !ok {
				t.Fatalf("round %d: the client's new connection is not served", round)
			}
			again.Close()
			synctest.Wait()
		}
		if !get(first, "/in") {
			t.Error("the client's first connection is closed")
		}
		counts := s.process.Counts()
		if counts.Open > 16 || counts.Evicted == 0 || counts.Full+counts.SourceFull != 0 {
			t.Errorf("got %+v, want at most 16 open, some evicted, none refused", counts)
		}
	})
}

// TestKeptForKnown checks that unknown sources leave a quarter of the connections to known ones, and
// that their connections make room before those from known sources do.
func TestKeptForKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, front.Limits{Connections: 4, PerSource: 4})
		s.known.Add(netip.MustParsePrefix("203.0.113.9/32"))
		known := s.begin("203.0.113.9:1")
		var unknown []net.Conn
		for n := range 4 {
			client := s.begin(fmt.Sprintf("192.0.2.%d:1", n))
			if !isOpen(client) {
				t.Errorf("unknown source %d gets no connection", n)
			}
			unknown = append(unknown, client)
		}
		if !isOpen(known) || isOpen(unknown[0]) || !isOpen(unknown[1]) || s.process.Counts().Open != 4 {
			t.Error("the fourth unknown source: the oldest unknown one was not closed for it, or another was")
		}
		if !isOpen(s.begin("203.0.113.9:2")) || !isOpen(known) || isOpen(unknown[1]) {
			t.Error("a second connection of the known source: the oldest unknown one was not closed for it, or another was")
		}
	})
}

// TestAuthenticatedStay checks that connections that have authenticated are not closed for others:
// not for those of the same source, and not for those of others.
func TestAuthenticatedStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, front.Limits{Connections: 4, PerSource: 2})
		var open []net.Conn
		for _, source := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "192.0.2.2:2"} {
			client, ok := s.visit(source, "/in")
			if !ok {
				t.Fatalf("the connection from %s is not served", source)
			}
			open = append(open, client)
		}
		if _, ok := s.visit("192.0.2.1:3", "/in"); ok {
			t.Error("a third connection from one source is served, want 2")
		}
		if _, ok := s.visit("192.0.2.3:1", "/in"); ok {
			t.Error("a fifth connection is served, want 4")
		}
		for i, client := range open {
			if !isOpen(client) {
				t.Errorf("connection %d is closed", i)
			}
		}
		want := front.Counts{Open: 4, SourceFull: 1, Full: 1}
		if counts := s.process.Counts(); counts != want {
			t.Errorf("got %+v, want %+v", counts, want)
		}
	})
}

// TestIdle checks that a connection ends with the answer to a request that was not verified, and after the
// server's idle time if a caller has authenticated on it.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, ample)
		unauthenticated, _ := s.visit("192.0.2.1:1", "/")
		authenticated, _ := s.visit("192.0.2.1:2", "/in")
		if isOpen(unauthenticated) || !isOpen(authenticated) {
			t.Error("want only the authenticated connection open")
		}
		time.Sleep(115 * time.Second)
		if !get(authenticated, "/") {
			t.Error("after 115 s, a second request of the authenticated connection is not answered")
		}
		time.Sleep(115 * time.Second)
		if !isOpen(authenticated) {
			t.Error("after 115 s the authenticated connection is closed, want 2 minutes")
		}
		time.Sleep(10 * time.Second)
		if isOpen(authenticated) {
			t.Error("after 125 s the authenticated connection is open, want 2 minutes")
		}
	})
}

// TestDistrusted checks that a connection whose caller cannot authenticate any more ends with the answer, and
// that it makes room for others before that.
func TestDistrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, front.Limits{Connections: 10, PerSource: 1})
		revoked, _ := s.visit("192.0.2.1:1", "/in")
		if isOpen(s.begin("192.0.2.1:2")) {
			t.Error("a connection on which a caller has authenticated makes room")
		}
		go func() { // the handler waits for the body
			_, _ = io.WriteString(revoked, "POST /out HTTP/1.1\r\nHost: kms.example\r\nContent-Length: 4\r\n\r\nab")
		}()
		synctest.Wait()
		if s.process.Counts().Unauthenticated != 1 {
			t.Errorf("got %+v, want one unauthenticated connection", s.process.Counts())
		}
		if !isOpen(s.begin("192.0.2.1:3")) || isOpen(revoked) {
			t.Error("a connection whose caller could not authenticate does not make room")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, ample)
		revoked, _ := s.visit("192.0.2.1:1", "/in")
		if !get(revoked, "/out") || isOpen(revoked) {
			t.Error("want an answer, and then a connection that is closed")
		}
		if counts := s.process.Counts(); counts.Open != 0 || counts.Unauthenticated != 0 {
			t.Errorf("got %+v, want no connection", counts)
		}
	})
}

// TestHeader checks the bounds of a header, and that requests which no handler sees are counted.
func TestHeader(t *testing.T) {
	const begin = "GET / HTTP/1.1\r\nHost: kms.example\r\n"
	fields := func(n int) string { return strings.Repeat("a:\r\n", n) }
	size := func(n int) string { return "B: " + strings.Repeat("b", n-5) + "\r\n" }
	query := func(n int) string {
		return "GET /?" + strings.Repeat("q", n) + " HTTP/1.1\r\nHost: kms.example\r\n\r\n"
	}
	for name, tc := range map[string]struct {
		request string
		want    int
	}{
		"128 fields":              {begin + fields(127) + "\r\n", 200},
		"129 fields":              {begin + fields(128) + "\r\n", 400},
		"many fields":             {begin + fields(50_000) + "\r\n", 400},
		"fields of 15 KiB":        {begin + size(15<<10) + "\r\n", 200},
		"fields of 17 KiB":        {begin + size(17<<10) + "\r\n", 400},
		"a body of 100 KiB":       {begin + "Content-Length: 102400\r\n\r\n" + strings.Repeat("\n", 100<<10), 200},
		"a query of 240 KiB":      {query(240 << 10), 200},
		"a query of 300 KiB":      {query(300 << 10), 431},
		"not HTTP":                {"nonsense\r\n\r\n", 400},
		"another version":         {"GET / HTTP/9.9\r\nHost: kms.example\r\n\r\n", 505},
		"two hosts":               {begin + "Host: kms.example\r\n\r\n", 400},
		"unknown transfer coding": {begin + "Transfer-Encoding: xchunked\r\n\r\n", 501},
		"unknown expectation":     {begin + "Expect: nothing\r\n\r\n", 417},
		"a blank line at first":   {"\r\n" + begin + "\r\n", 400},
		"a blank line, cut":       {begin + "\r\r\n\r\n", 400},
		"lines without a return":  {begin + "a:\n\n", 200},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, ample)
			for _, client := range []net.Conn{s.dial("192.0.2.1:1"), s.used("192.0.2.1:2")} {
				before := s.process.Counts().Malformed
				if got := send(client, tc.request); got != tc.want {
					t.Errorf("%s: got status %d, want %d", name, got, tc.want)
				}
				if got, want := s.process.Counts().Malformed-before == 1, tc.want != 200; got != want {
					t.Errorf("%s: counted as malformed: %v, want %v", name, got, want)
				}
				client.Close()
			}
		})
	}
}

// used returns a connection on which a caller has authenticated.
func (s *site) used(source string) net.Conn {
	s.t.Helper()
	client, ok := s.visit(source, "/in")
	if !ok {
		s.t.Fatalf("a request from %s is not answered", source)
	}
	return client
}

// TestLargeHeaders checks how many connections of one source, and of all sources, can send a large
// header at once. The bound is for connections that have not authenticated. Known sources have their own.
func TestLargeHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, front.Limits{Connections: 1000, PerSource: 100})
		s.known.Add(netip.MustParsePrefix("203.0.113.9/32"))
		begin := func(source string) (client net.Conn, accepted bool) {
			client = s.dial(source)
			go func() { _, _ = io.WriteString(client, "GET /?"+strings.Repeat("q", 100<<10)) }()
			return client, isOpen(client)
		}
		var sending []net.Conn
		for source := range 4 {
			for n := range 17 {
				client, ok := begin(fmt.Sprintf("192.0.2.%d:%d", source, n+1))
				if want := n < 16; ok != want {
					t.Errorf("source %d, large header %d: accepted: %v, want %v", source, n+1, ok, want)
				}
				sending = append(sending, client)
			}
		}
		if _, ok := begin("192.0.2.100:1"); ok {
			t.Error("a large header beyond 64 of all sources is accepted")
		}
		for n := range 17 {
			if _, ok := begin(fmt.Sprintf("203.0.113.9:%d", n+1)); ok != (n < 16) {
				t.Errorf("known source, large header %d: accepted: %v, want %v", n+1, ok, n < 16)
			}
		}
		if got := s.process.Counts().LargeHeaders; got != 6 {
			t.Errorf("got %d connections closed because of large headers, want 6", got)
		}
		if status := send(sending[0], " HTTP/1.1\r\nHost: kms.example\r\n\r\n"); status != http.StatusOK {
			t.Errorf("the first request: got status %d, want 200", status)
		}
		sending[1].Close()
		synctest.Wait()
		for n := range 2 { // one place is free because a request ended, one because its connection did
			if _, ok := begin(fmt.Sprintf("192.0.2.101:%d", n+1)); !ok {
				t.Errorf("after two large headers ended, number %d of others is refused", n+1)
			}
		}
	})
}
