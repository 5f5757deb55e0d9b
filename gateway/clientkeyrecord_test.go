package gateway_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/nativepb"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// TestUnsealedClientKey checks that no client key is created while the token cannot seal it.
func TestUnsealedClientKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.newAccessPoint("app", []string{"key/*"})
	b.backend.Fail(hsm.ErrUnavailable)
	b.want(b.do(b.root, "CreateClientKey", "AapName", "app", "Password", "password1"),
		503, "ServiceUnavailableTemporary")
	if n := len(b.clientKeys()); n != 0 {
		t.Errorf("got %d client keys, want 0", n)
	}
}

// TestForgedClientKey writes forged client keys into the database. A record that the token did not
// seal must not be a credential, and the log must say so.
func TestForgedClientKey(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var mu sync.Mutex
	b, c := nativeBench(t, func(cfg *gateway.Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), nil))
	})
	b.newAccessPoint("other", []string{"key/*"})
	real := b.clientKeys()[0]
	ask := func() answer {
		return c.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}, new(nativepb.GetPublicKeyResponse))
	}
	b.want(ask(), 200, "")
	for name, forge := range map[string]func(k *store.ClientKey){
		"without a seal":    func(k *store.ClientKey) { k.Sealed = nil },
		"with rubbish":      func(k *store.ClientKey) { k.Sealed = []byte("rubbish") },
		"for another AAP":   func(k *store.ClientKey) { k.AapName = "other" },
		"for longer":        func(k *store.ClientKey) { k.NotAfter = k.NotAfter.Add(time.Hour) },
		"for earlier":       func(k *store.ClientKey) { k.NotBefore = k.NotBefore.Add(-time.Hour) },
		"with another cert": func(k *store.ClientKey) { k.Certificate = certify(t, c.id, &c.key.PublicKey) },
		"with another's seal": func(k *store.ClientKey) {
			other := *k
			other.ClientKeyId = "KAAP.other"
			if err := identity.SealClientKey(t.Context(), b.backend, &other); err != nil {
				t.Fatal(err)
			}
			k.Sealed = other.Sealed
		},
	} {
		k := real
		forge(&k)
		if err := b.db.Update(func(tx *store.Tx) error { return tx.ClientKeys().Put(k) }); err != nil {
			t.Fatal(err)
		}
		if a := ask(); a.Status != 404 || a.Code != "Unauthorized" {
			t.Errorf("%s: got %+v, want 404 Unauthorized", name, a)
		}
	}
	mu.Lock()
	if n := strings.Count(log.String(), "the database was changed"); n != 7 {
		t.Errorf("got %d log lines about a changed database, want 7:\n%s", n, log.String())
	}
	mu.Unlock()
	b.putClientKey(real)
	b.want(ask(), 200, "")
	// The gateway asks the token once for each record, so only a new record needs the token.
	b.backend.Fail(hsm.ErrUnavailable)
	b.want(ask(), 200, "")
	b.backend.Fail(nil)
	another := b.newNativeClient("app")
	b.backend.Fail(hsm.ErrUnavailable)
	b.want(another.do("GetPublicKey", &nativepb.GetPublicKeyRequest{KeyId: b.key.KeyId}, nil), 503, "ServiceUnavailableTemporary")
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
