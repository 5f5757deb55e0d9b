package gateway_test

import (
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
	"github.com/kmsgate/kmsgate/store"
)

// certificate returns the certificate that a program with the client key presents.
func (c nativeClient) certificate() tls.Certificate {
	for _, k := range c.b.clientKeys() {
		if k.ClientKeyId == c.id {
			return tls.Certificate{Certificate: [][]byte{k.Certificate}, PrivateKey: c.key}
		}
	}
	c.b.t.Fatalf("there is no record of client key %s", c.id)
	return tls.Certificate{}
}

// A caller calls both APIs over a connection with or without a client certificate.
type caller struct {
	b       *bench
	native  nativeClient
	address string
	client  *http.Client
	asked   bool // the gateway asked for a certificate
}

func (b *bench) newCaller(c nativeClient, address string, certificate *tls.Certificate) *caller {
	b.t.Helper()
	k := &caller{b: b, native: c, address: address}
	k.client = client(pool(b))
	k.client.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		k.asked = true
		if certificate == nil {
			return new(tls.Certificate), nil
		}
		return certificate, nil
	}
	b.t.Cleanup(k.client.CloseIdleConnections)
	return k
}

// callNative sends a native request and returns the status and code, or 0 if there is no answer.
func (k *caller) callNative() (int, string) {
	k.b.t.Helper()
	body, err := proto.Marshal(&nativepb.GetPublicKeyRequest{KeyId: k.b.key.KeyId})
	if err != nil {
		k.b.t.Fatal(err)
	}
	r := k.native.request("GetPublicKey", body)
	r.URL.Host = k.address
	resp, err := k.client.Do(r)
	if err != nil {
		return 0, ""
	}
	a := k.b.readNative(resp, new(nativepb.GetPublicKeyResponse))
	return a.Status, a.Code
}

// callRPC is like callNative for the RPC API.
func (k *caller) callRPC() (int, string) {
	k.b.t.Helper()
	resp, err := k.client.Get("https://" + k.address + "/?" + k.b.sign(k.b.root, "GET", "DescribeKey", params("KeyId", k.b.key.KeyId)).Encode())
	if err != nil {
		return 0, ""
	}
	a := readAnswer(k.b.t, resp)
	return a.Status, a.Code
}

// TestClientCertificates connects with every kind of certificate to every kind of listener.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	other, deleted := b.newNativeClient("app"), b.newNativeClient("app")
	valid, second, gone := c.certificate(), other.certificate(), deleted.certificate()
	if err := b.db.Update(func(tx *store.Tx) error { return tx.ClientKeys().Delete(deleted.id) }); err != nil {
		t.Fatal(err)
	}
	// Only the record distinguishes the forged certificate: it has the same name and the same key.
	forged := tls.Certificate{Certificate: [][]byte{certify(t, c.id, &c.key.PublicKey)}, PrivateKey: c.key}
	for _, test := range []struct {
		listener    string
		certificate string
		shown       *tls.Certificate
		native, rpc int // statuses; 0: the connection is refused
	}{
		{gateway.NoCertificates, "none", nil, 200, 200},
		{gateway.NoCertificates, "forged", &forged, 200, 200}, // the gateway does not ask for it
		{"", "none", nil, 200, 200},
		{"", "valid", &valid, 200, 200},
		{gateway.RequiredCertificates, "none", nil, 0, 0},
		{gateway.RequiredCertificates, "valid", &valid, 200, 200},
		// A process with two client keys presents one certificate: the SDK keeps the first.
		{gateway.RequiredCertificates, "of another client key", &second, 200, 200},
		{gateway.RequiredCertificates, "forged", &forged, 0, 0},
		{gateway.RequiredCertificates, "deleted", &gone, 0, 0},
	} {
		b.listener = gateway.Listener{ClientCertificates: test.listener}
		address, _ := b.serve()
		k := b.newCaller(c, address, test.shown)
		native, _ := k.callNative()
		rpc, _ := k.callRPC()
		if native != test.native || rpc != test.rpc || k.asked != (test.listener == gateway.RequiredCertificates) {
			t.Errorf("listener %q, certificate %s: got native %d, RPC %d, asked %v, want %d, %d, %v",
				test.listener, test.certificate,
				native, rpc, k.asked, test.native, test.rpc, test.listener == gateway.RequiredCertificates)
		}
	}
}

// TestCertificateOfADeletedKey deletes a client key, or lets it expire, while its program is
// connected to a listener that requires a certificate. The gateway must then refuse its requests,
// also on the existing connection.
func TestCertificateOfADeletedKey(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(b *bench, c nativeClient){
		"deleted": func(b *bench, c nativeClient) {
			if err := b.db.Update(func(tx *store.Tx) error { return tx.ClientKeys().Delete(c.id) }); err != nil {
				t.Fatal(err)
			}
		},
		"expired": func(b *bench, c nativeClient) { b.clock.move(24*time.Hour + time.Second) },
	} {
		b, c := nativeBench(t)
		b.listener = gateway.Listener{ClientCertificates: gateway.RequiredCertificates}
		address, _ := b.serve()
		certificate := c.certificate()
		native, rpc := b.newCaller(c, address, &certificate), b.newCaller(c, address, &certificate)
		if status, _ := native.callNative(); status != 200 {
			t.Fatalf("%s: got %d from the native API before, want 200", name, status)
		}
		if status, _ := rpc.callRPC(); status != 200 {
			t.Fatalf("%s: got %d from the RPC API before, want 200", name, status)
		}
		end(b, c)
		if status, code := rpc.callRPC(); status == 200 || code == "" {
			t.Errorf("%s: got %d %s from the RPC API on the existing connection, want an error", name, status, code)
		}
		if status, code := native.callNative(); status == 200 || code == "" {
			t.Errorf("%s: got %d %s from the native API on the existing connection, want an error", name, status, code)
		}
		if status, _ := b.newCaller(c, address, &certificate).callRPC(); status != 0 {
			t.Errorf("%s: got %d on a new connection, want it refused", name, status)
		}
	}
}
