// Package storetest opens databases of tests.
package storetest

import (
	"context"

	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// Open opens the database at path, whose data key the hsmtest package's fake token seals. Every change is
// made twice, the first time in vain.
func Open(path string) (*store.Store, error) {
	return store.Open(context.Background(), path, new(hsmtest.Fake), store.Options{Rerun: true})
}
