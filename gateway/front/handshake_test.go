package front_test

import (
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/limit"
)

// TestHandshakesWait checks that the handshake of a stranger waits while strangers have all their slots, that
// one from a known source does not, and that a client which does not go on keeps no slot.
func TestHandshakesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, gate := limit.NewKnown(), limit.NewGate(1)
		known.Add(limit.PrefixOf("192.0.2.9"))
		b := newBench(t, ample, front.NewProcess(known, gate), &tls.Config{Certificates: []tls.Certificate{certificate(t, 0)}})
		handshake := func(source string) error {
			t.Helper()
			return tls.Client(b.dial(source), &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context())
		}
		elsewhere := limit.PrefixOf("198.51.100.1")
		if !gate.Enter(t.Context(), elsewhere, false) {
			t.Fatal("the gate is full")
		}
		if err := handshake("192.0.2.9:1"); err != nil {
			t.Errorf("a known source: got %v, want a handshake", err)
		}
		began := time.Now()
		if err := handshake("192.0.2.1:1"); err == nil || time.Since(began) != limit.GateTime {
			t.Errorf("a stranger: got %v after %v, want an error after %v", err, time.Since(began), limit.GateTime)
		}
		gate.Leave(elsewhere, false)
		end := make(chan struct{})
		defer close(end)
		silent := tls.Client(silentConn{b.dial("192.0.2.2:1"), end}, &tls.Config{InsecureSkipVerify: true})
		go func() { _ = silent.HandshakeContext(t.Context()) }()
		synctest.Wait()
		if err := handshake("192.0.2.1:2"); err != nil {
			t.Errorf("a stranger while another does not go on: got %v, want a handshake", err)
		}
	})
}

// A silentConn does not read before end is closed.
type silentConn struct {
	net.Conn
	end chan struct{}
}

func (c silentConn) Read([]byte) (int, error) {
	<-c.end
	return 0, net.ErrClosed
}
