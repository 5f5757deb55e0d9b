package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/store"
)

// TestNoncesAreForgotten checks that PutNonce deletes expired nonces.
func TestNoncesAreForgotten(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	for i := range 50 {
		now := day.Add(time.Duration(i) * time.Minute)
		update(t, s, func(tx *store.Tx) error {
			return tx.PutNonce(store.Nonce{Nonce: fmt.Sprint(i), Until: now.Add(10 * time.Minute)}, now)
		})
	}
	if n := s.Now().Nonces().Len(); n != 11 { // the nonce that expires now still counts
		t.Errorf("got %d nonces, want the 11 of the last 10 minutes", n)
	}
}

// TestNonceUsed checks that a nonce can be used once, and that none is accepted that could have been
// forgotten.
func TestNonceUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	put := func(nonce string, until, forget time.Time) error {
		return s.Update(func(tx *store.Tx) error {
			return tx.PutNonce(store.Nonce{AccessKeyId: "ak", Nonce: nonce, Until: until}, forget)
		})
	}
	if err := put("a", day, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := put("a", day, time.Time{}); !errors.Is(err, store.ErrNonceUsed) {
		t.Errorf("the same nonce: got %v, want ErrNonceUsed", err)
	}
	if err := put("b", day.Add(time.Hour), day.Add(time.Minute)); err != nil { // forgets a
		t.Fatal(err)
	}
	for range 2 {
		if s.Now().Nonces().Len() != 1 {
			t.Errorf("got %d nonces, want 1", s.Now().Nonces().Len())
		}
		if err := put("a", day, time.Time{}); !errors.Is(err, store.ErrNonceUsed) {
			t.Errorf("a nonce that was forgotten: got %v, want ErrNonceUsed", err)
		}
		s.Close()
		s = open(t, path)
	}
	if err := put("c", day.Add(time.Second), time.Time{}); err != nil {
		t.Errorf("a later nonce: %v", err)
	}
}
