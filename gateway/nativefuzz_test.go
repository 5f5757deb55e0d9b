package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
)

// FuzzNativeDoor sends arbitrary requests with a valid signature. The answer must be a message of
// the operation or an Error that blames the client, and never one that makes a client try again.
func FuzzNativeDoor(f *testing.F) {
	b, c := nativeBench(f)
	handler := b.server.Handler(gateway.Listener{})
	answers := map[string]func() proto.Message{
		"Sign":           func() proto.Message { return new(nativepb.SignResponse) },
		"Verify":         func() proto.Message { return new(nativepb.VerifyResponse) },
		"GetPublicKey":   func() proto.Message { return new(nativepb.GetPublicKeyResponse) },
		"GenerateRandom": func() proto.Message { return new(nativepb.GenerateRandomResponse) },
	}
	for _, m := range []proto.Message{
		&nativepb.SignRequest{KeyId: b.key.KeyId, Message: []byte("m"), MessageType: "RAW", Algorithm: "ECDSA_SHA_256"},
		&nativepb.SignRequest{KeyId: "alias/test", Digest: make([]byte, 32)},
		&nativepb.VerifyRequest{
			KeyId: b.key.KeyId, Message: make([]byte, 32), MessageType: "DIGEST",
			Signature: []byte{0x30, 6, 2, 1, 1, 2, 1, 1},
		},
		&nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}, &nativepb.GenerateRandomRequest{Length: 16},
	} {
		body, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		for name := range answers {
			f.Add(name, b.key.KeyVersionId, body)
		}
	}
	f.Add("Encrypt", "", []byte{})
	f.Fuzz(func(t *testing.T, apiName, keyVersionId string, body []byte) {
		for _, value := range []string{apiName, keyVersionId} {
			control := func(c byte) bool { return c < ' ' || c == 0x7f }
			if strings.TrimSpace(value) != value || slices.ContainsFunc([]byte(value), control) {
				return // net/http does not pass on such headers
			}
		}
		b.t = t
		sent := c.request(apiName, body, withVersion(keyVersionId))
		r := httptest.NewRequest(sent.Method, sent.URL.String(), sent.Body)
		r.Header = sent.Header
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		var resp proto.Message
		if answer, ok := answers[apiName]; ok {
			resp = answer()
		}
		a := b.readNative(w.Result(), resp)
		if a.Status >= 500 || a.Status == http.StatusTooManyRequests || a.Status == http.StatusUnauthorized {
			t.Errorf("%s with version %q and %x: %+v, want a success or an error of the client",
				apiName, keyVersionId, body, a)
		}
	})
}
