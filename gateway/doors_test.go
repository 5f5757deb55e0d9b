package gateway_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
)

// BenchmarkDoors measures the same signature through both APIs, from the HTTP request to the
// answer, without network and token. It also measures a native signature of a message of 1 MB,
// which the gateway hashes. Native requests are signed beforehand. RPC requests cannot be, because
// each needs a new nonce.
func BenchmarkDoors(b *testing.B) {
	g, c := nativeBench(b)
	handler := g.server.Handler(gateway.Listener{})
	serve := func(b *testing.B, r *http.Request) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatalf("got %d %s, want 200", w.Code, w.Body)
		}
	}
	b.Run("RPC", func(b *testing.B) {
		for b.Loop() {
			serve(b, httptest.NewRequest("GET", "https://x/?"+g.sign(g.root, "GET", "AsymmetricSign", params(g.signParams()...)).Encode(), nil))
		}
	})
	for name, m := range map[string]*nativepb.SignRequest{
		"native":      {KeyId: g.key.KeyId, Message: make([]byte, 32), MessageType: "DIGEST"},
		"native-1-MB": {KeyId: g.key.KeyId, Message: make([]byte, 1<<20)},
	} {
		body, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		signed := c.request("Sign", body)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				r := httptest.NewRequest("POST", "https://x/", bytes.NewReader(body))
				r.Header = signed.Header
				serve(b, r)
			}
		})
	}
}
