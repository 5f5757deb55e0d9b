package identity_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// TestAccessKey checks that only callers who have the secret can authenticate, and only within
// the time window. The token takes no part in it.
func TestAccessKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	inactive := b.putAccessKey("OFF", "off")
	inactive.Active = false
	copied := b.putAccessKey("COPY", "copy")
	ak, err := b.db.Now().AccessKeys().Get("AK")
	if err != nil {
		t.Fatal(err)
	}
	b.update(func(tx *store.Tx) error { return tx.AccessKeys().Put(inactive) })
	b.open(noon)
	copied.Sealed = ak.Sealed // changed after the registry was opened
	b.update(func(tx *store.Tx) error { return tx.AccessKeys().Put(copied) })
	b.sealer.Fail(hsmtest.ErrPanic) // if the registry calls the token
	start, end := noon.Add(-identity.TimeWindow), noon.Add(identity.TimeWindow)
	for name, tc := range map[string]struct {
		claim *acs.Claim
		want  error // nil if the caller is authenticated
	}{
		"right":                      {b.claim("AK", "secret", "1", noon), nil},
		"at the start of the window": {b.claim("AK", "secret", "2", start), nil},
		"before the window":          {b.claim("AK", "secret", "3", start.Add(-time.Second)), kms.ErrTimeStampExpired},
		"at the end of the window":   {b.claim("AK", "secret", "4", end), nil},
		"after the window":           {b.claim("AK", "secret", "5", end.Add(time.Second)), kms.ErrTimeStampExpired},
		"unknown":                    {b.claim("NONE", "secret", "6", noon), kms.ErrAccessKeyNotFound},
		"inactive":                   {b.claim("OFF", "off", "7", noon), kms.ErrAccessKeyInactive},
		"wrong secret":               {b.claim("AK", "Secret", "8", noon), kms.ErrSignatureMismatch},
		"another key's secret":       {b.claim("AK", "off", "9", noon), kms.ErrSignatureMismatch},
		"inactive, wrong secret":     {b.claim("OFF", "secret", "10", noon), kms.ErrAccessKeyInactive},
		"late, unknown":              {b.claim("NONE", "secret", "11", noon.Add(-time.Hour)), kms.ErrTimeStampExpired},
	} {
		p, err := b.AccessKey(b.db.Now(), tc.claim, noon)
		switch {
		case tc.want != nil && (!errors.Is(err, tc.want) || p != nil):
			t.Errorf("%s: got %+v, %v, want error %v", name, p, err, tc.want)
		case tc.want == nil && (err != nil || p.Name != "app" || p.Quotas["asymmetric"] != 7):
			t.Errorf("%s: got %+v, %v, want the user app", name, p, err)
		}
	}
	api := (*kms.Error)(nil)
	for _, secret := range []string{"copy", "secret"} {
		p, err := b.AccessKey(b.db.Now(), b.claim("COPY", secret, secret, noon), noon)
		if p != nil || err == nil || errors.As(err, &api) {
			t.Errorf("a sealed secret of another access key, claim with %q: got %+v, %v, want an internal error",
				secret, p, err)
		}
	}
}

// TestPrincipalIsOfItsRecords authenticates with records from before and after a change, in turn.
func TestPrincipalIsOfItsRecords(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	before := b.db.Now()
	b.update(func(tx *store.Tx) error { return tx.Users().Put(store.User{UserName: "app"}) })
	for i, records := range []*store.Records{before, before, b.db.Now(), b.db.Now(), before, b.db.Now()} {
		p, err := b.AccessKey(records, b.claim("AK", "secret", fmt.Sprint(i), noon), noon)
		if err != nil {
			t.Fatal(err)
		}
		sign := identity.Question{Action: "AsymmetricSign", Resource: arns.Key("k1")}
		d, err := b.Decide(records, p, sign, nil)
		if want := records == before; err != nil || d.Allowed != want || (len(p.Quotas) > 0) != want {
			t.Errorf("request %d: got %+v with the quotas %v, %v, want allowed %v, and quotas if it is", i, d, p.Quotas, err, want)
		}
	}
}

// TestOpenRefuses checks that Open fails if a secret was sealed for another access key.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.putAccessKey("AK", "secret")
	a.AccessKeyId = "COPY"
	b.update(func(tx *store.Tx) error { return tx.AccessKeys().Put(a) })
	if _, err := identity.Open(t.Context(), b.db.Now(), b.config(noon)); err == nil {
		t.Error("Open: got no error for a secret that was sealed for another access key")
	}
}

// TestNonce checks that each access key can use a nonce once while its request could be
// replayed, and that only the nonces of valid signatures are remembered.
func TestNonce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putAccessKey("AK2", "secret2")
	b.open(noon)
	records := b.db.Now()
	check := func(name string, claim *acs.Claim, now time.Time, want error) {
		t.Helper()
		if _, err := b.AccessKey(records, claim, now); !errors.Is(err, want) {
			t.Errorf("%s: got error %v, want %v", name, err, want)
		}
	}
	early := noon.Add(identity.TimeWindow) // the time stamp
	check("with a wrong secret", b.claim("AK", "wrong", "n", noon), noon, kms.ErrSignatureMismatch)
	check("first", b.claim("AK", "secret", "n", early), noon, nil)
	check("another access key", b.claim("AK2", "secret2", "n", noon), noon, nil)
	check("another nonce", b.claim("AK", "secret", "N", noon), noon, nil)
	for after := time.Duration(0); after <= 2*identity.TimeWindow; after += time.Minute {
		check("again after "+after.String(), b.claim("AK", "secret", "n", early), noon.Add(after), kms.ErrNonceUsed)
	}
	expired := early.Add(identity.TimeWindow + time.Second)
	check("a replay after the window", b.claim("AK", "secret", "n", early), expired, kms.ErrTimeStampExpired)
	b.seen = 2*identity.TimeWindow + time.Minute
	later := noon.Add(b.seen)
	check("a later request with the same nonce", b.claim("AK", "secret", "n", later), later, nil)
}

// TestNonceSurvivesRestart checks that a nonce in the records counts as used until the last
// moment at which its request could be replayed.
func TestNonceSurvivesRestart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.update(func(tx *store.Tx) error {
		end := noon.Add(identity.TimeWindow)
		return errors.Join(
			tx.PutNonce(store.Nonce{AccessKeyId: "AK", Nonce: "n", Until: end}, noon),
			// A nonce is recorded twice if the clock was set back.
			tx.PutNonce(store.Nonce{AccessKeyId: "AK", Nonce: "n", Until: end.Add(-time.Second)}, noon),
			tx.PutNonce(store.Nonce{AccessKeyId: "AK", Nonce: "old", Until: noon.Add(-time.Second)}, noon))
	})
	for _, after := range []time.Duration{0, identity.TimeWindow / 2, identity.TimeWindow} {
		now := noon.Add(after)
		b.open(now)
		_, err := b.AccessKey(b.db.Now(), b.claim("AK", "secret", "n", noon), now)
		if !errors.Is(err, kms.ErrNonceUsed) {
			t.Errorf("restarted after %v: got error %v, want %v", after, err, kms.ErrNonceUsed)
		}
		if _, err := b.AccessKey(b.db.Now(), b.claim("AK", "secret", "old", now), now); err != nil {
			t.Errorf("restarted after %v, a nonce that is past its time: got error %v, want none", after, err)
		}
	}
}

// TestSecret checks that a secret is found only for the access key that it was kept for, until
// it is dropped.
func TestSecret(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a, err := b.db.Now().AccessKeys().Get("AK")
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := b.Secret(a); secret != "secret" || err != nil {
		t.Errorf("got %q, %v, want \"secret\"", secret, err)
	}
	other := a
	other.AccessKeyId = "AK2"
	if secret, err := b.Secret(other); err == nil {
		t.Errorf("another access key: got the secret %q, want an error", secret)
	}
	b.Keep(other, "secret2")
	if secret, err := b.Secret(other); secret != "secret2" || err != nil {
		t.Errorf("another access key, kept: got %q, %v, want \"secret2\"", secret, err)
	}
	b.Drop(a)
	if secret, err := b.Secret(a); err == nil {
		t.Errorf("dropped: got the secret %q, want an error", secret)
	}
}

// TestRecordUse checks that RecordUse writes when access keys were last used, and writes
// nothing if none was used.
func TestRecordUse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putAccessKey("GONE", "gone")
	b.open(noon)
	before := b.db.Now()
	b.RecordUse(b.db)
	if b.db.Now() != before {
		t.Error("RecordUse changed records although no access key was used")
	}
	record := func() store.AccessKey {
		t.Helper()
		a, err := b.db.Now().AccessKeys().Get("AK")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if got := b.LastUsed(record()); !got.IsZero() {
		t.Errorf("LastUsed of an unused access key: got %v, want zero", got)
	}
	_, err := b.AccessKey(before, b.claim("AK", "wrong", "0", noon), noon)
	if got := b.LastUsed(record()); err == nil || !got.IsZero() {
		t.Errorf("with a wrong secret: got error %v, LastUsed %v, want an error, zero", err, got)
	}
	secrets := map[string]string{"AK": "secret", "GONE": "gone"}
	for i, nonce := range []string{"1", "2"} {
		now := noon.Add(time.Duration(i) * time.Minute)
		for id, secret := range secrets {
			if _, err := b.AccessKey(before, b.claim(id, secret, nonce, now), now); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := noon.Add(time.Minute)
	if got := b.LastUsed(record()); !got.Equal(want) || !record().LastUsedDate.IsZero() {
		t.Errorf("before RecordUse: got LastUsed %v, LastUsedDate %v, want %v, zero", got, record().LastUsedDate, want)
	}
	b.update(func(tx *store.Tx) error { return tx.AccessKeys().Delete("GONE") })
	b.RecordUse(b.db)
	if got := record().LastUsedDate; !got.Equal(want) || !b.LastUsed(record()).Equal(want) {
		t.Errorf("after RecordUse: got LastUsedDate %v, LastUsed %v, want %v for both", got, b.LastUsed(record()), want)
	}
	if n := b.db.Now().AccessKeys().Len(); n != 1 {
		t.Errorf("after RecordUse: got %d access keys, want 1: a deleted one stays deleted", n)
	}
}

// TestNoncesOutliveJumps sets the clock an hour ahead and back. A nonce is remembered all the time.
func TestNoncesOutliveJumps(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	claim := b.claim("AK", "secret", "n", noon)
	if _, err := b.AccessKey(b.db.Now(), claim, noon); err != nil {
		t.Fatal(err)
	}
	b.seen = time.Minute
	ahead := noon.Add(time.Hour)
	if _, err := b.AccessKey(b.db.Now(), b.claim("AK", "secret", "m", ahead), ahead); err != nil {
		t.Fatal(err)
	}
	b.seen = 2 * time.Minute
	if _, err := b.AccessKey(b.db.Now(), claim, noon.Add(b.seen)); !errors.Is(err, kms.ErrNonceUsed) {
		t.Errorf("after the jumps: got %v, want %v", err, kms.ErrNonceUsed)
	}
}

// TestTooManyNonces fills the memory for nonces from one access key. Another can still be used.
func TestTooManyNonces(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putAccessKey("AK2", "secret2")
	b.maxNonces = 100
	b.open(noon)
	use := func(accessKeyId, secret string, n int) error {
		_, err := b.AccessKey(b.db.Now(), b.claim(accessKeyId, secret, fmt.Sprint(n), noon), noon)
		return err
	}
	if err := use("AK2", "secret2", 0); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for n := range 200 {
		if err := use("AK", "secret", n); errors.Is(err, kms.ErrThrottling) && strings.Contains(err.Error(), "memory") {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused != 101 {
		t.Errorf("refused %d of 200 requests, want 101", refused)
	}
	for n := range 20 {
		if err := use("AK2", "secret2", n+1); err != nil {
			t.Errorf("another access key: %v", err)
		}
	}
	if s := b.Nonces(); s.Total != 120 || s.Max != 100 || s.Refusals != refused {
		t.Errorf("figures: got %+v, want 120 of 100 and %d refusals", s, refused)
	}
	b.seen = identity.TimeWindow + 2*time.Minute
	if s := b.Nonces(); s.Total != 0 {
		t.Errorf("after their time: got %d nonces, want none", s.Total)
	}
	if err := use("AK", "secret", 200); err != nil {
		t.Errorf("after their time: %v", err)
	}
}

// TestNonceSize checks that a nonce takes at most 48 bytes, however large the request is, and that its
// memory is given back.
func TestNonceSize(t *testing.T) {
	b := newBench(t)
	b.maxNonces = 1 << 30
	b.open(noon)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const count = 100_000
	long := strings.Repeat("x", 1000)
	for n := range count {
		b.UseNonce("AK", fmt.Sprint(long, n), noon.Add(time.Duration(n)*5*time.Millisecond), noon)
	}
	if each := (heap() - before) / count; each > 48 {
		t.Errorf("a nonce takes %d bytes, want at most 48", each)
	}
	b.seen = time.Hour
	b.Nonces()
	if after := heap(); after > before+before/10+(1<<16) {
		t.Errorf("after their time: %d bytes of heap, before %d", after, before)
	}
	runtime.KeepAlive(b)
}
