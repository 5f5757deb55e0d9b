package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/kmsgate/kmsgate/store"
)

// TestTry runs trials concurrently with real changes. A trial must see its own changes and leave
// none.
func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.Keys().Put(store.Key{KeyId: "k"}),
			tx.Aliases().Put(store.Alias{AliasName: "alias/a", KeyId: "k"}))
	})
	refused := errors.New("refused")
	try := func(records *store.Records) error {
		return records.Try(func(tx *store.Tx) error {
			err := errors.Join(tx.Keys().Delete("k"), tx.Users().Create(store.User{UserName: "u"}),
				tx.SetInstance(store.Instance{InstanceId: "i"}), tx.PutNonce(store.Nonce{Nonce: "n", Until: day}, day))
			if err != nil || tx.Keys().Has("k") || tx.Aliases().Len() != 0 || !tx.Users().Has("u") ||
				tx.Instance().InstanceId != "i" || tx.Nonces().Len() != 1 {
				t.Errorf("a trial does not see its own changes: %v", err)
			}
			return refused
		})
	}
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 50 {
				if err := try(s.Now()); err != refused {
					t.Errorf("Try: got %v, want the error of its function", err)
				}
				if i%10 == w {
					update(t, s, func(tx *store.Tx) error {
						return tx.Keys().Put(store.Key{KeyId: fmt.Sprintf("%d-%d", w, i)})
					})
				}
			}
		})
	}
	all.Wait()
	s.Close()
	records := open(t, path).Now()
	if records.Keys().Len() != 1+4*5 || len(records.AliasesOf("k")) != 1 || records.Users().Len() != 0 ||
		records.Nonces().Len() != 0 || records.Instance() != (store.Instance{}) {
		t.Errorf("after trials: got %d keys, aliases %v, %d users, %d nonces, instance %v, want 21 keys and one alias",
			records.Keys().Len(), records.AliasesOf("k"), records.Users().Len(), records.Nonces().Len(),
			records.Instance())
	}
}

// TestUsedAfterItsEnd checks that a transaction cannot write after its end, when readers share its
// records.
func TestUsedAfterItsEnd(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	var kept *store.Tx
	update(t, s, func(tx *store.Tx) error {
		kept = tx
		return tx.Keys().Put(store.Key{KeyId: "k"})
	})
	for method, err := range map[string]error{
		"Put":         kept.Keys().Put(store.Key{KeyId: "late"}),
		"Delete":      kept.Keys().Delete("k"),
		"SetInstance": kept.SetInstance(store.Instance{InstanceId: "i"}),
	} {
		if err == nil {
			t.Errorf("%s after the transaction's end: got nil, want an error", method)
		}
	}
	if now := s.Now(); now.Keys().Len() != 1 || !now.Keys().Has("k") || now.Instance() != (store.Instance{}) {
		t.Errorf("got %d keys and instance %v, want one key and no instance", now.Keys().Len(), now.Instance())
	}
}
