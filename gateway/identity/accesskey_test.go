package identity_test

import (
	"errors"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// TestAccessKey takes the claims of callers who have the secret, in time, and of nobody
// else. The token has no part in it.
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
	copied.Sealed = ak.Sealed // after the start
	b.update(func(tx *store.Tx) error { return tx.AccessKeys().Put(copied) })
	b.sealer.Fail(hsmtest.ErrPanic) // if it is asked
	for name, tc := range map[string]struct {
		claim *acs.Claim
		want  error // nil: it is taken
	}{
		"right":                   {b.claim("AK", "secret", "1", noon), nil},
		"as old as allowed":       {b.claim("AK", "secret", "2", noon.Add(-identity.TimeWindow)), nil},
		"older":                   {b.claim("AK", "secret", "3", noon.Add(-identity.TimeWindow-time.Second)), kms.ErrTimeStampExpired},
		"as early as allowed":     {b.claim("AK", "secret", "4", noon.Add(identity.TimeWindow)), nil},
		"earlier":                 {b.claim("AK", "secret", "5", noon.Add(identity.TimeWindow+time.Second)), kms.ErrTimeStampExpired},
		"unknown":                 {b.claim("NONE", "secret", "6", noon), kms.ErrAccessKeyNotFound},
		"inactive":                {b.claim("OFF", "off", "7", noon), kms.ErrAccessKeyInactive},
		"wrong secret":            {b.claim("AK", "Secret", "8", noon), kms.ErrSignatureMismatch},
		"another key's secret":    {b.claim("AK", "off", "9", noon), kms.ErrSignatureMismatch},
		"inactive, and no secret": {b.claim("OFF", "secret", "10", noon), kms.ErrAccessKeyInactive},
		"late, and unknown":       {b.claim("NONE", "secret", "11", noon.Add(-time.Hour)), kms.ErrTimeStampExpired},
	} {
		p, err := b.AccessKey(b.db.Now(), tc.claim, noon)
		switch {
		case tc.want != nil && (!errors.Is(err, tc.want) || p != nil):
			t.Errorf("%s: %+v, %v, want %v", name, p, err, tc.want)
		case tc.want == nil && (err != nil || p.Name != "app" || p.Quotas["asymmetric"] != 7):
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	api := (*kms.Error)(nil)
	for _, secret := range []string{"copy", "secret"} {
		if p, err := b.AccessKey(b.db.Now(), b.claim("COPY", secret, secret, noon), noon); p != nil || err == nil || errors.As(err, &api) {
			t.Errorf("with another's sealed secret, the secret %q: %+v, %v", secret, p, err)
		}
	}
}

// TestOpenRefuses does not start with a record that was not sealed for what it says.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.putAccessKey("AK", "secret")
	a.AccessKeyId = "COPY"
	b.update(func(tx *store.Tx) error { return tx.AccessKeys().Put(a) })
	if _, err := identity.Open(t.Context(), b.db.Now(), arns, b.sealer, noon, quiet); err == nil {
		t.Error("a secret was unsealed for another access key")
	}
}

// TestNonce takes a nonce once for each access key, as long as its request could be
// taken, and only remembers those of callers who can sign.
func TestNonce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putAccessKey("AK2", "secret2")
	b.open(noon)
	records := b.db.Now()
	check := func(what string, claim *acs.Claim, now time.Time, want error) {
		t.Helper()
		if _, err := b.AccessKey(records, claim, now); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	early := noon.Add(identity.TimeWindow)
	check("with a wrong secret", b.claim("AK", "wrong", "n", noon), noon, kms.ErrSignatureMismatch)
	check("first", b.claim("AK", "secret", "n", early), noon, nil)
	check("of another access key", b.claim("AK2", "secret2", "n", noon), noon, nil)
	check("another", b.claim("AK", "secret", "N", noon), noon, nil)
	for after := time.Duration(0); after <= 2*identity.TimeWindow; after += time.Minute {
		check("again after "+after.String(), b.claim("AK", "secret", "n", early), noon.Add(after), kms.ErrNonceUsed)
	}
	check("a replay after its time", b.claim("AK", "secret", "n", early), noon.Add(2*identity.TimeWindow+time.Second), kms.ErrTimeStampExpired)
	later := noon.Add(2*identity.TimeWindow + time.Minute)
	check("a later request of the same nonce", b.claim("AK", "secret", "n", later), later, nil)
}

// TestNonceSurvivesRestart: a nonce that is in the records is used, as long as its
// request could be taken, to the last moment.
func TestNonceSurvivesRestart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.update(func(tx *store.Tx) error {
		return errors.Join(
			tx.PutNonce(store.Nonce{AccessKeyId: "AK", Nonce: "n", Until: noon.Add(identity.TimeWindow)}, noon),
			tx.PutNonce(store.Nonce{AccessKeyId: "AK", Nonce: "n", Until: noon.Add(identity.TimeWindow - time.Second)}, noon), // the clock was set back
			tx.PutNonce(store.Nonce{AccessKeyId: "AK", Nonce: "old", Until: noon.Add(-time.Second)}, noon))
	})
	for _, after := range []time.Duration{0, identity.TimeWindow / 2, identity.TimeWindow} {
		now := noon.Add(after)
		b.open(now)
		if _, err := b.AccessKey(b.db.Now(), b.claim("AK", "secret", "n", noon), now); !errors.Is(err, kms.ErrNonceUsed) {
			t.Errorf("restarted after %v: %v", after, err)
		}
		if _, err := b.AccessKey(b.db.Now(), b.claim("AK", "secret", "old", now), now); err != nil {
			t.Errorf("restarted after %v, a nonce that is past its time: %v", after, err)
		}
	}
}

// TestSecret keeps a secret by all that it was sealed with, until it is dropped.
func TestSecret(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a, err := b.db.Now().AccessKeys().Get("AK")
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := b.Secret(a); secret != "secret" || err != nil {
		t.Errorf("%q, %v", secret, err)
	}
	other := a
	other.AccessKeyId = "AK2"
	if secret, err := b.Secret(other); err == nil {
		t.Errorf("the secret of another access key: %q", secret)
	}
	b.Keep(other, "secret2")
	if secret, err := b.Secret(other); secret != "secret2" || err != nil {
		t.Errorf("%q, %v", secret, err)
	}
	b.Drop(a)
	if secret, err := b.Secret(a); err == nil {
		t.Errorf("the secret that was dropped: %q", secret)
	}
}

// TestRecordUse writes down when access keys were used last, and nothing if none was.
func TestRecordUse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.putAccessKey("GONE", "gone")
	b.open(noon)
	before := b.db.Now()
	b.RecordUse(b.db)
	if b.db.Now() != before {
		t.Error("records were changed though no access key was used")
	}
	record := func() store.AccessKey {
		t.Helper()
		a, err := b.db.Now().AccessKeys().Get("AK")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if at := b.LastUsed(record()); !at.IsZero() {
		t.Errorf("never used, and last used %v", at)
	}
	if _, err := b.AccessKey(before, b.claim("AK", "wrong", "0", noon), noon); err == nil || !b.LastUsed(record()).IsZero() {
		t.Errorf("with a wrong secret: %v, last used %v", err, b.LastUsed(record()))
	}
	for i, nonce := range []string{"1", "2"} {
		now := noon.Add(time.Duration(i) * time.Minute)
		for _, id := range []string{"AK", "GONE"} {
			if _, err := b.AccessKey(before, b.claim(id, map[string]string{"AK": "secret", "GONE": "gone"}[id], nonce, now), now); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := noon.Add(time.Minute)
	if at := b.LastUsed(record()); !at.Equal(want) || !record().LastUsedDate.IsZero() {
		t.Errorf("before it is written down, last used %v and %v", at, record().LastUsedDate)
	}
	b.update(func(tx *store.Tx) error { return tx.AccessKeys().Delete("GONE") })
	b.RecordUse(b.db)
	if at := record().LastUsedDate; !at.Equal(want) || !b.LastUsed(record()).Equal(want) || b.db.Now().AccessKeys().Len() != 1 {
		t.Errorf("written down: %v; %d access keys", at, b.db.Now().AccessKeys().Len())
	}
}
