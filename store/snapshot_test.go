package store_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

// TestCopy copies the database while it is changed. Each copy must have all changes up to one
// moment and none after it.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	s, err := storetest.Open(filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stop := make(chan struct{})
	var changing sync.WaitGroup
	changing.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			err := s.Update(func(tx *store.Tx) error {
				name := fmt.Sprintf("%06d", n)
				if err := tx.Users().Put(store.User{UserName: name}); err != nil {
					return err
				}
				return tx.Aliases().Put(store.Alias{AliasName: "alias/" + name, KeyId: name})
			})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for n := range 20 {
		minimum := s.Now().Users().Len()
		content := takeSnapshot(t, s)
		path := filepath.Join(dir, fmt.Sprint("copy", n))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := storetest.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		records := c.Now()
		users := slices.Collect(records.Users().All())
		if len(users) < minimum || len(users) != records.Aliases().Len() {
			t.Errorf("the copy has %d users and %d aliases, want equal numbers and at least %d",
				len(users), records.Aliases().Len(), minimum)
		}
		for i, u := range users {
			if u.UserName != fmt.Sprintf("%06d", i) {
				t.Errorf("user %d of the copy: got %q, want %06d", i, u.UserName, i)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	changing.Wait()
}

func takeSnapshot(t *testing.T, s *store.Store) []byte {
	t.Helper()
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	n, err := snapshot.WriteTo(&b)
	if err != nil || n != snapshot.Size() || n != int64(b.Len()) {
		t.Fatalf("WriteTo: got %d, %v and wrote %d bytes, want %d bytes", n, err, b.Len(), snapshot.Size())
	}
	for range 2 {
		if err := snapshot.Close(); err != nil {
			t.Error(err)
		}
	}
	return b.Bytes()
}
