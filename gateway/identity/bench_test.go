package identity_test

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

var (
	quiet = slog.New(slog.NewTextHandler(io.Discard, nil))
	noon  = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	arns  = kms.ARNs{RegionId: "cn-hangzhou", AccountId: "1000000000000001"}
)

// A bench is a registry with real records and a fake token.
type bench struct {
	*identity.Registry
	t      testing.TB
	db     *store.Store
	sealer *hsmtest.Fake
	seen   time.Duration // how much time has been seen to pass

	maxNonces int // 0 means very many
}

// newBench returns a bench with a user, app, that has an access key, AK, with the secret
// "secret".
func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, sealer: new(hsmtest.Fake)}
	var err error
	if b.db, err = storetest.Open(filepath.Join(t.TempDir(), "db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close() })
	b.update(func(tx *store.Tx) error {
		return tx.Users().Put(store.User{
			UserName: "app",
			Policies: []string{"AliyunKMSCryptoUserAccess"},
			Quotas:   map[string]float64{"asymmetric": 7},
		})
	})
	b.putAccessKey("AK", "secret")
	b.open(noon)
	return b
}

// open opens the registry, as a process does when it starts.
func (b *bench) open(now time.Time) {
	b.t.Helper()
	var err error
	if b.Registry, err = identity.Open(b.t.Context(), b.db.Now(), b.config(now)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) update(f func(tx *store.Tx) error) {
	b.t.Helper()
	if err := b.db.Update(f); err != nil {
		b.t.Fatal(err)
	}
}

// putAccessKey writes the record of an active access key of the user app.
func (b *bench) putAccessKey(accessKeyId, secret string) store.AccessKey {
	b.t.Helper()
	a := store.AccessKey{AccessKeyId: accessKeyId, UserName: "app", Active: true}
	if err := identity.SealAccessKey(b.t.Context(), b.sealer, &a, secret); err != nil {
		b.t.Fatal(err)
	}
	b.update(func(tx *store.Tx) error { return tx.AccessKeys().Put(a) })
	return a
}

// claim returns the claim of a request that was signed with signature version 1.0.
func (b *bench) claim(accessKeyId, secret, nonce string, timestamp time.Time) *acs.Claim {
	b.t.Helper()
	v := url.Values{
		"Action": {"ListKeys"}, "Version": {"2016-01-20"}, "AccessKeyId": {accessKeyId},
		"SignatureMethod": {"HMAC-SHA1"}, "SignatureVersion": {"1.0"}, "SignatureNonce": {nonce},
		"Timestamp": {timestamp.Format(kms.TimeLayout)},
	}
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(v)) {
		parts = append(parts, escape(name)+"="+escape(v.Get(name)))
	}
	mac := hmac.New(sha1.New, []byte(secret+"&"))
	mac.Write([]byte("GET&%2F&" + escape(strings.Join(parts, "&"))))
	v.Set("Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, "https://kms.example/?"+v.Encode(), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	claim, err := acs.Parse(r, "")
	if err != nil {
		b.t.Fatal(err)
	}
	return claim
}

// clientRSA and otherRSA are the private keys of client keys. All tests share them, because
// generating one is slow.
var clientRSA, otherRSA = sync.OnceValue(newRSA), sync.OnceValue(newRSA)

func newRSA() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

// config returns the configuration of a registry that is opened now.
func (b *bench) config(now time.Time) identity.Config {
	return identity.Config{ARNs: arns, Sealer: b.sealer, Logger: quiet, MaxNonces: cmp.Or(b.maxNonces, 1<<20),
		Now: func() time.Time { return now }, Seen: func() time.Duration { return b.seen }}
}
