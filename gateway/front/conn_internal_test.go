package front

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestWriteToStuckClient writes to a client that does not read. TLS may write at any time, and then holds a
// lock that Close needs.
func TestWriteToStuckClient(t *testing.T) {
	for name, tc := range map[string]struct {
		during func(c *boundedConn)
		want   time.Duration
	}{
		"no deadline": {func(*boundedConn) {}, writeTime},
		"a deadline":  {func(c *boundedConn) { _ = c.SetWriteDeadline(time.Now().Add(time.Second)) }, time.Second},
		"none again": {func(c *boundedConn) {
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_ = c.SetDeadline(time.Time{})
			c.startWriting()
		}, writeTime},
		"closing": {(*boundedConn).stopWriting, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			defer client.Close()
			defer server.Close()
			c := &boundedConn{Conn: server, remaining: -1}
			began := time.Now()
			done := make(chan error, 1)
			go func() {
				_, err := c.Write([]byte("alert"))
				done <- err
			}()
			synctest.Wait()
			tc.during(c)
			if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != tc.want {
				t.Errorf("%s: got %v after %v, want a deadline of %v", name, err, time.Since(began), tc.want)
			}
		})
	}
}

// TestWriteWhileClosing checks that TLS has only a moment to say that it closes a connection, whatever
// deadline it sets for that.
func TestWriteWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		c := &boundedConn{Conn: server, remaining: -1}
		c.stopWriting()
		began := time.Now()
		if err := c.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("alert")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != closeTime {
			t.Errorf("got %v after %v, want a deadline of %v", err, time.Since(began), closeTime)
		}
	})
}

// TestRecords counts records that arrive in pieces of all sizes.
func TestRecords(t *testing.T) {
	var stream []byte
	for n := range 100 {
		stream = append(stream, 0x17, 3, 3, 0, byte(n))
		stream = append(stream, make([]byte, n)...)
	}
	for size := 1; size <= len(stream); size++ {
		var r records
		for rest := stream; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			r.add(rest[:min(size, len(rest))])
		}
		if r.count != 100 || r.rest != 0 || r.known != 0 || r.bytes != int64(len(stream)) {
			t.Fatalf("in pieces of %d bytes: got %+v, want 100 records", size, r)
		}
	}
}
