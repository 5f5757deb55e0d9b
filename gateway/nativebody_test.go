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

// A slowRequest is a request whose body the client has not sent completely.
type slowRequest struct {
	b    *bench
	conn *tls.Conn
	rest []byte // the bytes of the body that are not sent yet
}

// startSlow sends the header of a request and its body without the last hold bytes.
func (c nativeClient) startSlow(req proto.Message, hold int) *slowRequest {
	c.b.t.Helper()
	body, err := proto.Marshal(req)
	if err != nil {
		c.b.t.Fatal(err)
	}
	return c.b.startSlow("/", c.request("Sign", body).Header, body, hold)
}

// startSlow sends the header of a POST request and its body without the last hold bytes.
func (b *bench) startSlow(target string, header http.Header, body []byte, hold int) *slowRequest {
	b.t.Helper()
	config := b.http.Client().Transport.(*http.Transport).TLSClientConfig
	conn, err := tls.Dial("tcp", b.http.Listener.Addr().String(), config)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n", target, len(body))
	if err := header.Write(conn); err != nil {
		b.t.Fatal(err)
	}
	if _, err := conn.Write(append([]byte("\r\n"), body[:len(body)-hold]...)); err != nil {
		b.t.Fatal(err)
	}
	return &slowRequest{b, conn, body[len(body)-hold:]}
}

// end sends the rest of a native request and returns the answer.
func (s *slowRequest) end() answer {
	s.b.t.Helper()
	return s.b.readNative(s.response(), new(nativepb.SignResponse))
}

// response sends the rest of the body and returns the response.
func (s *slowRequest) response() *http.Response {
	s.b.t.Helper()
	if _, err := s.conn.Write(s.rest); err != nil {
		s.b.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(s.conn), nil)
	if err != nil {
		s.b.t.Fatal(err)
	}
	return resp
}

// awaitLine waits for an audit line with the given access key and code.
func (b *bench) awaitLine(accessKeyId, code string) {
	b.t.Helper()
	b.eventually("an audit line with "+code, func() bool {
		for _, e := range b.auditLines() {
			if e.AccessKeyId == accessKeyId && e.Code == code {
				return true
			}
		}
		return false
	})
}

// TestBodiesUnread checks that the gateway refuses an unauthenticated client, and a client over its
// quota, before the client has sent any of the body.
func TestBodiesUnread(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t, func(c *gateway.Config) { c.Quotas.DedicatedUser = 1 })
	m := &nativepb.SignRequest{KeyId: b.key.KeyId, Message: make([]byte, 1<<20)}
	small := &nativepb.SignRequest{KeyId: b.key.KeyId, Message: []byte{1}}
	b.want(c.do("Sign", small, new(nativepb.SignResponse)), 200, "")
	overQuota := c.startSlow(m, proto.Size(m))
	b.awaitLine(c.id, throttled)
	unknown := c
	unknown.id = "KAAP.none"
	unauthorized := unknown.startSlow(m, proto.Size(m))
	b.awaitLine(unknown.id, "Unauthorized")
	// The answer comes after the body, because a client that is still sending may not read.
	for _, s := range []*slowRequest{overQuota, unauthorized} {
		s.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := s.conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("reading before the body is sent: %d bytes, %v, want %v", n, err, os.ErrDeadlineExceeded)
		}
		s.conn.SetReadDeadline(time.Time{})
	}
	b.want(overQuota.end(), 429, throttled)
	b.want(unauthorized.end(), 404, "Unauthorized")
}

// TestSlowBody deletes records that a request depends on while its body is being sent.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		remove func(tx *store.Tx, id string) error
		status int
	}{
		"client key":   {func(tx *store.Tx, id string) error { return tx.ClientKeys().Delete(id) }, 404},
		"access point": {func(tx *store.Tx, _ string) error { return tx.AccessPoints().Delete("app") }, 404},
		"permission policy": {
			func(tx *store.Tx, _ string) error { return tx.PermissionPolicies().Delete("of-app") }, 403,
		},
		"nothing": {func(*store.Tx, string) error { return nil }, 200},
	} {
		b, c := nativeBench(t)
		s := c.startSlow(&nativepb.SignRequest{KeyId: b.key.KeyId, Message: make([]byte, 100<<10)}, 1)
		b.eventually("the body to be read", func() bool { return b.metric("kmsgate_native_body_bytes") != "0" })
		if err := b.db.Update(func(tx *store.Tx) error { return tc.remove(tx, c.id) }); err != nil {
			t.Fatal(err)
		}
		if a := s.end(); a.Status != tc.status {
			t.Errorf("%s deleted: %+v, want status %d", name, a, tc.status)
		}
	}
}

// TestManyBodies checks the limits on the bytes of bodies that one access point, and all access
// points together, can send at once. Other access points and small requests still have room.
func TestManyBodies(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	b.newAccessPoint("other", []string{"key/*"})
	other := b.newNativeClient("other")
	large := &nativepb.SignRequest{KeyId: b.key.KeyId, Message: make([]byte, 3<<20-1024)}
	awaitBodies := func(n int) {
		t.Helper()
		b.eventually(fmt.Sprintf("%d bodies to be read", n), func() bool {
			return b.metric("kmsgate_native_body_bytes") == fmt.Sprint(float64(n*proto.Size(large)))
		})
	}
	var open []*slowRequest
	for range 10 {
		open = append(open, c.startSlow(large, 1))
	}
	awaitBodies(10)
	b.want(c.do("Sign", large, nil), 503, "ServiceUnavailableTemporary")
	small := &nativepb.SignRequest{KeyId: b.key.KeyId, Message: make([]byte, 60<<10)}
	b.want(c.do("Sign", small, new(nativepb.SignResponse)), 200, "")
	b.want(other.do("Sign", large, new(nativepb.SignResponse)), 200, "")
	for n := range 3 { // all access points together have 128 MiB
		name := fmt.Sprintf("app-%d", n)
		b.newAccessPoint(name, []string{"key/*"})
		c := b.newNativeClient(name)
		for range 10 {
			open = append(open, c.startSlow(large, 1))
		}
	}
	awaitBodies(40)
	for range 2 {
		open = append(open, other.startSlow(large, 1))
	}
	awaitBodies(42)
	b.want(other.do("Sign", large, nil), 503, "ServiceUnavailableTemporary")
	for i, s := range open {
		if i%2 == 0 {
			b.want(s.end(), 200, "")
		} else {
			s.conn.Close()
		}
	}
	awaitBodies(0)
	b.want(c.do("Sign", large, new(nativepb.SignResponse)), 200, "")
}

// TestHugeCertificate sends certificates that need far more memory than they have bytes. The
// gateway must end the connection before it parses them.
func TestHugeCertificate(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	b.listener = gateway.Listener{ClientCertificates: gateway.RequiredCertificates}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	connect := func(names int) error {
		uris, err := asn1.Marshal(asn1.RawValue{
			Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Repeat([]byte{0x86, 0}, names),
		})
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber:    big.NewInt(1),
			Subject:         pkix.Name{CommonName: c.id},
			NotAfter:        time.Now().Add(time.Hour),
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: uris}},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		address, roots := b.serve()
		conn, err := tls.Dial("tcp", address, &tls.Config{
			RootCAs:      roots,
			ServerName:   "example.com",
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		})
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		return err
	}
	// Both certificates are forged. The gateway refuses one that it has parsed with a TLS alert.
	alerted := func(err error) bool { return err != nil && strings.Contains(err.Error(), "remote error: tls") }
	if err := connect(100); !alerted(err) {
		t.Errorf("connecting with a certificate of ordinary size: %v, want a TLS alert", err)
	}
	if err := connect(20_000); err == nil || alerted(err) {
		t.Errorf("connecting with a certificate of 40 KB: %v, want an error without a TLS alert", err)
	}
}

// TestNativePlain sends a native request without TLS.
func TestNativePlain(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	address, _ := b.serve()
	r := c.request("Sign", []byte{1})
	r.URL.Scheme, r.URL.Host = "http", address
	b.want(b.nativeRoundTrip(http.DefaultClient, r, nil), 404, "InvalidProtocol.NeedSsl")
}
