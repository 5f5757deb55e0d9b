package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/kmsgate/kmsgate/store"
)

// TestTry tries changes while others are made for good: a trial sees what it does
// itself, and nothing of it is left.
func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	update(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.Keys().Put(store.Key{KeyId: "k"}), tx.Aliases().Put(store.Alias{AliasName: "alias/a", KeyId: "k"}))
	})
	refused := errors.New("refused")
	try := func(records *store.Records) error {
		return records.Try(func(tx *store.Tx) error {
			err := errors.Join(tx.Keys().Delete("k"), tx.Users().Create(store.User{UserName: "u"}), tx.SetInstance(store.Instance{InstanceId: "i"}),
				tx.PutNonce(store.Nonce{Nonce: "n", Until: day}, day))
			if err != nil || tx.Keys().Has("k") || tx.Aliases().Len() != 0 || !tx.Users().Has("u") || tx.Instance().InstanceId != "i" || tx.Nonces().Len() != 1 {
				t.Errorf("a trial does not see what it does: %v", err)
			}
			return refused
		})
	}
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 50 {
				if err := try(s.Now()); err != refused {
					t.Errorf("%v, want what was returned", err)
				}
				if i%10 == w {
					update(t, s, func(tx *store.Tx) error { return tx.Keys().Put(store.Key{KeyId: fmt.Sprintf("%d-%d", w, i)}) })
				}
			}
		})
	}
	all.Wait()
	s.Close()
	records := open(t, path).Now()
	if records.Keys().Len() != 1+4*5 || len(records.AliasesOf("k")) != 1 || records.Users().Len() != 0 || records.Nonces().Len() != 0 || records.Instance() != (store.Instance{}) {
		t.Errorf("trials left something: %d keys, aliases %v, %d users, instance %v", records.Keys().Len(), records.AliasesOf("k"), records.Users().Len(), records.Instance())
	}
}

// TestUsedAfterItsEnd keeps a transaction: it writes nothing into what others read.
func TestUsedAfterItsEnd(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	var kept *store.Tx
	update(t, s, func(tx *store.Tx) error {
		kept = tx
		return tx.Keys().Put(store.Key{KeyId: "k"})
	})
	for what, err := range map[string]error{"Put": kept.Keys().Put(store.Key{KeyId: "late"}), "Delete": kept.Keys().Delete("k"), "SetInstance": kept.SetInstance(store.Instance{InstanceId: "i"})} {
		if err == nil {
			t.Errorf("%s after the end of its transaction succeeds", what)
		}
	}
	if now := s.Now(); now.Keys().Len() != 1 || !now.Keys().Has("k") || now.Instance() != (store.Instance{}) {
		t.Errorf("%d keys, instance %v", now.Keys().Len(), now.Instance())
	}
}
