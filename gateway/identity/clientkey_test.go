package identity_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

const clientKeyId = "KAAP.11111111-2222-3333-4444-555555555555"

// certify returns the certificate of a client key.
func certify(t testing.TB, id string, key *rsa.PrivateKey) []byte {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id},
		NotBefore:    noon,
		NotAfter:     noon.Add(time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// newClientKey adds two access points, billing and other, and a client key of billing that is
// valid for an hour.
func (b *bench) newClientKey() store.ClientKey {
	b.t.Helper()
	k := store.ClientKey{
		ClientKeyId: clientKeyId,
		AapName:     "billing",
		Certificate: certify(b.t, clientKeyId, clientRSA()),
		NotBefore:   noon,
		NotAfter:    noon.Add(time.Hour),
	}
	if err := identity.SealClientKey(b.t.Context(), b.sealer, &k); err != nil {
		b.t.Fatal(err)
	}
	b.update(func(tx *store.Tx) error {
		return errors.Join(
			tx.AccessPoints().Put(store.ApplicationAccessPoint{Name: "billing"}),
			tx.AccessPoints().Put(store.ApplicationAccessPoint{Name: "other"}),
			tx.ClientKeys().Put(k))
	})
	return k
}

// nativeClaim returns the claim of a request to the native API.
func (b *bench) nativeClaim(id string, key *rsa.PrivateKey, date time.Time) *acs.Claim {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, "https://kms.example/", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Content-Type":          "application/x-protobuf",
		"Date":                  date.Format(http.TimeFormat),
		"Content-Sha256":        fmt.Sprintf("%X", sha256.Sum256(nil)),
		"X-Kms-Acccesskeyid":    id,
		"X-Kms-Apiname":         "Sign",
		"X-Kms-Apiversion":      "dkms-gcs-0.2",
		"X-Kms-Signaturemethod": "RSA_PKCS1_SHA_256",
	} {
		r.Header.Set(name, value)
	}
	toSign := "POST\n"
	for _, name := range []string{"Content-Sha256", "Content-Type", "Date"} {
		toSign += r.Header.Get(name) + "\n"
	}
	var names []string
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Kms-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		toSign += strings.ToLower(name) + ":" + r.Header.Get(name) + "\n"
	}
	digest := sha256.Sum256([]byte(toSign + "/"))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+base64.StdEncoding.EncodeToString(signature))
	claim, err := acs.ParseNative(r)
	if err != nil {
		b.t.Fatal(err)
	}
	return claim
}

// TestClientKey checks that only callers with the private key of a client key can
// authenticate, within the time window and while the client key is valid. The requests of
// others do not reach the token.
func TestClientKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.newClientKey()
	end := k.NotAfter
	b.sealer.Fail(hsmtest.ErrPanic) // if the registry calls the token
	ask := func(claim *acs.Claim, now time.Time) (*identity.Principal, error) {
		return b.ClientKey(t.Context(), b.db.Now(), claim, now, func() {})
	}
	signed := func(date time.Time) *acs.Claim { return b.nativeClaim(clientKeyId, clientRSA(), date) }
	for name, tc := range map[string]struct {
		claim *acs.Claim
		now   time.Time
		want  error
	}{
		"before the window": {signed(noon.Add(-identity.TimeWindow - time.Second)), noon, kms.ErrNativeTime},
		"after the window":  {signed(noon.Add(identity.TimeWindow + time.Second)), noon, kms.ErrNativeTime},
		"unknown":           {b.nativeClaim("KAAP.none", clientRSA(), noon), noon, kms.ErrNativeClientKey},
		"another's key":     {b.nativeClaim(clientKeyId, otherRSA(), noon), noon, kms.ErrNativeSignature},
		"not yet valid":     {signed(noon), noon.Add(-time.Second), kms.ErrNativeClientKey},
		"no longer valid":   {signed(end), end.Add(time.Second), kms.ErrNativeClientKey},
	} {
		if p, err := ask(tc.claim, tc.now); p != nil || !errors.Is(err, tc.want) {
			t.Errorf("%s: got %+v, %v, want error %v", name, p, err, tc.want)
		}
	}
	b.sealer.Fail(hsm.ErrUnavailable)
	p, err := ask(signed(noon), noon)
	if p != nil || !errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, kms.ErrNativeClientKey) {
		t.Errorf("while the token is unavailable: got %+v, %v, want error %v", p, err, hsm.ErrUnavailable)
	}
	b.sealer.Fail(nil)
	checkValid := func() {
		t.Helper()
		for _, now := range []time.Time{noon, end} {
			if p, err := ask(signed(now), now); err != nil || p.Name != identity.AccessPointUser+"billing" {
				t.Errorf("at %v: got %+v, %v, want the access point billing", now, p, err)
			}
		}
	}
	checkValid()
	b.sealer.Fail(hsmtest.ErrPanic)
	checkValid() // without the token: it has unsealed the record
}

// TestForgedClientKey checks that a record with contents that the token did not seal is not a
// credential, even if the token has unsealed the original record.
func TestForgedClientKey(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]func(k *store.ClientKey){
		"access point":   func(k *store.ClientKey) { k.AapName = "other" },
		"start":          func(k *store.ClientKey) { k.NotBefore = k.NotBefore.Add(-time.Hour) },
		"end":            func(k *store.ClientKey) { k.NotAfter = k.NotAfter.Add(time.Hour) },
		"certificate":    func(k *store.ClientKey) { k.Certificate = certify(t, clientKeyId, clientRSA()) },
		"seal":           func(k *store.ClientKey) { k.Sealed = nil },
		"no certificate": func(k *store.ClientKey) { k.Certificate = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			k := b.newClientKey()
			claim := b.nativeClaim(clientKeyId, clientRSA(), noon)
			if _, err := b.ClientKey(t.Context(), b.db.Now(), claim, noon, func() {}); err != nil {
				t.Fatal(err)
			}
			forge(&k)
			b.update(func(tx *store.Tx) error { return tx.ClientKeys().Put(k) })
			for range 2 {
				p, err := b.ClientKey(t.Context(), b.db.Now(), claim, noon, func() {})
				if p != nil || !errors.Is(err, kms.ErrNativeClientKey) {
					t.Errorf("got %+v, %v, want error %v", p, err, kms.ErrNativeClientKey)
				}
			}
		})
	}
}

// TestCheckCertificate checks that only the recorded certificate of a valid client key is
// accepted.
func TestCheckCertificate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.newClientKey()
	check := func(now time.Time, der ...[]byte) error {
		t.Helper()
		var connection tls.ConnectionState
		for _, d := range der {
			certificate, err := x509.ParseCertificate(d)
			if err != nil {
				t.Fatal(err)
			}
			connection.PeerCertificates = append(connection.PeerCertificates, certificate)
		}
		return identity.CheckCertificate(b.db.Now(), connection, now)
	}
	for _, now := range []time.Time{k.NotBefore, k.NotAfter} {
		if err := check(now, k.Certificate); err != nil {
			t.Errorf("at %v: got error %v, want none", now, err)
		}
	}
	another := certify(t, clientKeyId, otherRSA())
	for name, err := range map[string]error{
		"no certificate":                  check(noon),
		"another with the same name":      check(noon, another),
		"another, then the recorded one":  check(noon, another, k.Certificate),
		"a name that is not a client key": check(noon, certify(t, "nobody", clientRSA())),
		"before NotBefore":                check(k.NotBefore.Add(-time.Second), k.Certificate),
		"after NotAfter":                  check(k.NotAfter.Add(time.Second), k.Certificate),
	} {
		if !errors.Is(err, kms.ErrNoPermission) {
			t.Errorf("%s: got error %v, want %v", name, err, kms.ErrNoPermission)
		}
	}
	b.update(func(tx *store.Tx) error { return tx.AccessPoints().Delete("billing") })
	if err := check(noon, k.Certificate); !errors.Is(err, kms.ErrNoPermission) {
		t.Errorf("after its access point was deleted: got error %v, want %v", err, kms.ErrNoPermission)
	}
}
