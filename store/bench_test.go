package store_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

// BenchmarkOpen opens a database with 10,000 keys of one version each.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "db")
	s, err := storetest.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	const keys, perChange = 10_000, 1000
	for first := 0; first < keys; first += perChange {
		if err := s.Update(func(tx *store.Tx) error {
			for i := first; i < first+perChange; i++ {
				id := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
				k := store.Key{KeyId: id, KeySpec: hsm.EC_P256, KeyState: store.Enabled, CreationDate: day}
				v := store.KeyVersion{KeyId: id, KeyVersionId: id, CreationDate: day,
					Key: hsm.Key{ID: []byte(id[:16]), Spec: hsm.EC_P256, Public: []byte(strings.Repeat("p", 91))}}
				if err := tx.Keys().Put(k); err != nil {
					return err
				}
				if err := tx.Versions().Put(v); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := storetest.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
