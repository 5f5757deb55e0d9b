package front_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
)

// A network is a listener in memory, for connections from any address. Accept returns an
// error that is sent to errs.
type network struct {
	conns  chan net.Conn
	errs   chan error
	closed chan struct{}
	once   sync.Once
}

func newNetwork() *network {
	return &network{conns: make(chan net.Conn), errs: make(chan error), closed: make(chan struct{})}
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case conn := <-n.conns:
		return conn, nil
	case err := <-n.errs:
		return nil, err
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

func (n *network) Addr() net.Addr { return address("server") }

type address string

func (a address) Network() string { return "memory" }
func (a address) String() string  { return string(a) }

// A remoteConn is a connection from the address remote.
type remoteConn struct {
	net.Conn
	remote address
}

func (c remoteConn) RemoteAddr() net.Addr { return c.remote }

// A bench is a listener on a network. It must be used in a synctest bubble.
type bench struct {
	t       *testing.T
	network *network
	net.Listener
	accepted chan net.Conn
}

// newBench listens with limits, and accepts every connection.
func newBench(t *testing.T, limits front.Limits, process *front.Process, config *tls.Config) *bench {
	b := &bench{t: t, network: newNetwork(), accepted: make(chan net.Conn, 1000)}
	b.Listener = front.Listen(b.network, config, limits, process)
	go func() {
		for {
			conn, err := b.Accept()
			if err != nil {
				return
			}
			b.accepted <- conn
		}
	}()
	t.Cleanup(func() {
		b.Close()
		for len(b.accepted) > 0 {
			(<-b.accepted).Close()
		}
	})
	return b
}

// dial connects from an address.
func (b *bench) dial(source string) net.Conn {
	client, server := net.Pipe()
	b.network.conns <- remoteConn{server, address(source)}
	b.t.Cleanup(func() { client.Close() })
	return client
}

// talk connects from an address and sends the first line of a request. It returns both ends;
// server is nil if the connection is not accepted.
func (b *bench) talk(source string) (client, server net.Conn) {
	b.t.Helper()
	client = b.dial(source)
	go func() { _, _ = io.WriteString(client, "GET / HTTP/1.1\r\n") }()
	synctest.Wait()
	select {
	case server = <-b.accepted:
	default:
	}
	return client, server
}

// wantClosed checks that the other end has closed a connection.
func wantClosed(t *testing.T, name string, client net.Conn) {
	t.Helper()
	if err := client.SetReadDeadline(time.Now().Add(time.Second)); errors.Is(err, io.ErrClosedPipe) {
		return
	}
	if _, err := io.Copy(io.Discard, client); err != nil {
		t.Errorf("%s: got %v when reading, want it closed", name, err)
	}
}

// isOpen reports whether the other end of a connection is open. It must be called in a synctest
// bubble, when no data is on its way to the client.
func isOpen(client net.Conn) bool {
	synctest.Wait()
	if err := client.SetReadDeadline(time.Now()); err != nil {
		return false
	}
	_, err := client.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded) && client.SetReadDeadline(time.Time{}) == nil
}

// certificate returns a self-signed certificate with an extension of length bytes.
func certificate(t *testing.T, length int) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:    big.NewInt(1),
		Subject:         pkix.Name{CommonName: "kms.example"},
		NotBefore:       time.Now().Add(-time.Hour),
		NotAfter:        time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, length)}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

var errBroken = errors.New("the network is broken")
