package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
	"github.com/kmsgate/kmsgate/store"
)

// A slow request is one whose body is sent as its sender likes.
type slow struct {
	b    *bench
	conn *tls.Conn
	rest []byte // of the body
}

// slowly sends a request's header and the body but for its last so many bytes.
func (c nativeClient) slowly(req proto.Message, hold int) *slow {
	c.b.t.Helper()
	body, err := proto.Marshal(req)
	if err != nil {
		c.b.t.Fatal(err)
	}
	r := c.request("Sign", body)
	conn, err := tls.Dial("tcp", c.b.http.Listener.Addr().String(), c.b.http.Client().Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		c.b.t.Fatal(err)
	}
	c.b.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n", len(body))
	if err := r.Header.Write(conn); err != nil {
		c.b.t.Fatal(err)
	}
	if _, err := conn.Write(append([]byte("\r\n"), body[:len(body)-hold]...)); err != nil {
		c.b.t.Fatal(err)
	}
	return &slow{c.b, conn, body[len(body)-hold:]}
}

// end sends the rest, and gives the answer.
func (s *slow) end() answer {
	s.b.t.Helper()
	if _, err := s.conn.Write(s.rest); err != nil {
		s.b.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(s.conn), nil)
	if err != nil {
		s.b.t.Fatal(err)
	}
	return s.b.readNative(resp, new(nativepb.SignResponse))
}

// last waits for an audit line of an access key with a code.
func (b *bench) last(accessKeyId, code string) {
	b.t.Helper()
	b.eventually("a line with "+code, func() bool {
		for _, e := range b.auditLines() {
			if e.AccessKeyId == accessKeyId && e.Code == code {
				return true
			}
		}
		return false
	})
}

// TestBodiesUnread: who cannot say who it is, or is over its quota, has been refused
// before it has sent anything of the body.
func TestBodiesUnread(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t, func(c *gateway.Config) { c.Quotas.DedicatedUser = 1 })
	m := &nativepb.SignRequest{KeyId: b.key.KeyId, Message: make([]byte, 1<<20)}
	b.want(c.do("Sign", &nativepb.SignRequest{KeyId: b.key.KeyId, Message: []byte{1}}, new(nativepb.SignResponse)), 200, "")
	throttledOne := c.slowly(m, proto.Size(m))
	b.last(c.id, throttled)
	stranger := c
	stranger.id = "KAAP.none"
	strange := stranger.slowly(m, proto.Size(m))
	b.last(stranger.id, "Unauthorized")
	// Both can send all of it, and then read why not: one that is still sending may
	// not read at all.
	for _, s := range []*slow{throttledOne, strange} {
		s.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := s.conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("there is an answer before all was sent: %d bytes, %v", n, err)
		}
		s.conn.SetReadDeadline(time.Time{})
	}
	b.want(throttledOne.end(), 429, throttled)
	b.want(strange.end(), 404, "Unauthorized")
}

// TestSlowBody takes away what a request needs while its body is on its way.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]struct {
		away   func(tx *store.Tx, id string) error
		status int
	}{
		"client key":        {func(tx *store.Tx, id string) error { return tx.ClientKeys().Delete(id) }, 404},
		"access point":      {func(tx *store.Tx, _ string) error { return tx.AccessPoints().Delete("app") }, 404},
		"permission policy": {func(tx *store.Tx, _ string) error { return tx.PermissionPolicies().Delete("of-app") }, 403},
		"nothing":           {func(*store.Tx, string) error { return nil }, 200},
	} {
		b, c := nativeBench(t)
		s := c.slowly(&nativepb.SignRequest{KeyId: b.key.KeyId, Message: make([]byte, 100<<10)}, 1)
		b.eventually("the body to be read", func() bool { return b.metric("kmsgate_native_body_bytes") != "0" })
		if err := b.db.Update(func(tx *store.Tx) error { return take.away(tx, c.id) }); err != nil {
			t.Fatal(err)
		}
		if a := s.end(); a.Status != take.status {
			t.Errorf("%s: %+v, want %d", name, a, take.status)
		}
	}
}

// TestManyBodies: programs of one access point can send so many bytes at once, and
// others have room all the same, as have small requests.
func TestManyBodies(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	b.newAccessPoint("other", []string{"key/*"})
	other := b.newNativeClient("other")
	large := &nativepb.SignRequest{KeyId: b.key.KeyId, Message: make([]byte, 3<<20-1024)}
	var open []*slow
	for range 10 {
		open = append(open, c.slowly(large, 1))
	}
	b.eventually("ten bodies to be read", func() bool { return b.metric("kmsgate_native_body_bytes") == fmt.Sprint(float64(10*proto.Size(large))) })
	b.want(c.do("Sign", large, nil), 503, "ServiceUnavailableTemporary")
	b.want(c.do("Sign", &nativepb.SignRequest{KeyId: b.key.KeyId, Message: make([]byte, 60<<10)}, new(nativepb.SignResponse)), 200, "")
	b.want(other.do("Sign", large, new(nativepb.SignResponse)), 200, "")
	for n := range 3 { // all of them together have 128 MiB
		name := fmt.Sprintf("app-%d", n)
		b.newAccessPoint(name, []string{"key/*"})
		c := b.newNativeClient(name)
		for range 10 {
			open = append(open, c.slowly(large, 1))
		}
	}
	b.eventually("forty bodies to be read", func() bool { return b.metric("kmsgate_native_body_bytes") == fmt.Sprint(float64(40*proto.Size(large))) })
	for range 2 {
		open = append(open, other.slowly(large, 1))
	}
	b.eventually("two more", func() bool { return b.metric("kmsgate_native_body_bytes") == fmt.Sprint(float64(42*proto.Size(large))) })
	b.want(other.do("Sign", large, nil), 503, "ServiceUnavailableTemporary")
	for i, s := range open {
		if i%2 == 0 {
			b.want(s.end(), 200, "")
		} else {
			s.conn.Close()
		}
	}
	b.eventually("the others to be given up", func() bool { return b.metric("kmsgate_native_body_bytes") == "0" })
	b.want(c.do("Sign", large, new(nativepb.SignResponse)), 200, "")
}

// TestHugeCertificate shows certificates that take much more room than they have
// bytes: the connection ends before that is made of them.
func TestHugeCertificate(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	b.listener = gateway.Listener{ClientCertificates: gateway.RequiredCertificates}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	show := func(names int) error {
		uris, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Repeat([]byte{0x86, 0}, names)})
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: c.id}, NotAfter: time.Now().Add(time.Hour),
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: uris}}}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		address, roots := b.serve()
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, ServerName: "example.com", Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		return err
	}
	// Both are forged. One of ordinary size is read and judged, which an alert tells.
	judged := func(err error) bool { return err != nil && strings.Contains(err.Error(), "remote error: tls") }
	if err := show(100); !judged(err) {
		t.Errorf("a certificate of ordinary size: %v", err)
	}
	if err := show(20_000); err == nil || judged(err) {
		t.Errorf("one of 40 KB: %v", err)
	}
}

// TestNativePlain speaks natively without TLS.
func TestNativePlain(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	address, _ := b.serve()
	r := c.request("Sign", []byte{1})
	r.URL.Scheme, r.URL.Host = "http", address
	b.want(b.nativeRoundTrip(http.DefaultClient, r, nil), 404, "InvalidProtocol.NeedSsl")
}
