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

// certificate is what a client key's program shows when it connects.
func (c nativeClient) certificate() tls.Certificate {
	for _, k := range c.b.clientKeys() {
		if k.ClientKeyId == c.id {
			return tls.Certificate{Certificate: [][]byte{k.Certificate}, PrivateKey: c.key}
		}
	}
	c.b.t.Fatalf("there is no client key %s", c.id)
	return tls.Certificate{}
}

// A caller connects with a certificate, or without, and calls both APIs.
type caller struct {
	b       *bench
	native  nativeClient
	address string
	client  *http.Client
	asked   bool // for a certificate
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

// callNative gives the status of a native request, 0 if there is no answer.
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

// callRPC is callNative for the other API.
func (k *caller) callRPC() (int, string) {
	k.b.t.Helper()
	resp, err := k.client.Get("https://" + k.address + "/?" + k.b.sign(k.b.root, "GET", "DescribeKey", params("KeyId", k.b.key.KeyId)).Encode())
	if err != nil {
		return 0, ""
	}
	a := readAnswer(k.b.t, resp)
	return a.Status, a.Code
}

// TestClientCertificates connects with every kind of certificate to every kind of
// listener.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	b, c := nativeBench(t)
	other, deleted := b.newNativeClient("app"), b.newNativeClient("app")
	own, others, gone := c.certificate(), other.certificate(), deleted.certificate()
	if err := b.db.Update(func(tx *store.Tx) error { return tx.ClientKeys().Delete(deleted.id) }); err != nil {
		t.Fatal(err)
	}
	// Nothing but the record tells one from the other: same name, same key.
	forged := tls.Certificate{Certificate: [][]byte{certify(t, c.id, &c.key.PublicKey)}, PrivateKey: c.key}
	for _, test := range []struct {
		listener    string
		certificate string
		shown       *tls.Certificate
		native, rpc int // statuses; 0: the connection is refused
	}{
		{gateway.NoCertificates, "none", nil, 200, 200},
		{gateway.NoCertificates, "forged", &forged, 200, 200}, // nobody asks for it
		{"", "none", nil, 200, 200},
		{"", "own", &own, 200, 200},
		{gateway.RequiredCertificates, "none", nil, 0, 0},
		{gateway.RequiredCertificates, "own", &own, 200, 200},
		{gateway.RequiredCertificates, "another's", &others, 200, 200}, // the same process has both: the SDK keeps the first
		{gateway.RequiredCertificates, "forged", &forged, 0, 0},
		{gateway.RequiredCertificates, "deleted", &gone, 0, 0},
	} {
		b.listener = gateway.Listener{ClientCertificates: test.listener}
		address, _ := b.serve()
		k := b.newCaller(c, address, test.shown)
		native, _ := k.callNative()
		rpc, _ := k.callRPC()
		if native != test.native || rpc != test.rpc || k.asked != (test.listener == gateway.RequiredCertificates) {
			t.Errorf("listener %q, certificate %s: %d and %d, asked %v; want %d and %d", test.listener, test.certificate, native, rpc, k.asked, test.native, test.rpc)
		}
	}
}

// TestCertificateOfADeletedKey deletes a client key, or lets its time pass, while its
// program is connected to a listener that requires one: that is the end of it, on
// this connection too.
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
		own := c.certificate()
		k := b.newCaller(c, address, &own)
		if native, _ := k.callNative(); native != 200 {
			t.Fatalf("%s: %d before", name, native)
		}
		if rpc, _ := k.callRPC(); rpc != 200 {
			t.Fatalf("%s: %d before", name, rpc)
		}
		end(b, c)
		if status, code := k.callRPC(); status == 200 || code == "" {
			t.Errorf("%s: the RPC API answers %d %s on the connection of before", name, status, code)
		}
		if status, code := k.callNative(); status == 200 || code == "" {
			t.Errorf("%s: the native API answers %d %s on the connection of before", name, status, code)
		}
		if status, _ := b.newCaller(c, address, &own).callRPC(); status != 0 {
			t.Errorf("%s: a new connection: %d", name, status)
		}
	}
}
