package gateway

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// A client key's record holds no secret: whoever could write one into the database
// would have a credential. So the token seals what a record says, and what it has not
// sealed is none.

// sealedClientKey is what is sealed; what matters is what it is sealed with.
var sealedClientKey = []byte{1}

// clientKeyAAD is all that a record says of who may do something, and when.
func clientKeyAAD(k store.ClientKey) []byte {
	return fmt.Appendf(nil, "kmsgate client key 1|%s|%s|%d|%d|%x", k.ClientKeyId, k.AapName, k.NotBefore.Unix(), k.NotAfter.Unix(), sha256.Sum256(k.Certificate))
}

func sealClientKey(ctx context.Context, sealer hsm.Sealer, k *store.ClientKey) (err error) {
	k.Sealed, err = sealer.Seal(ctx, sealedClientKey, clientKeyAAD(*k))
	if err != nil {
		return fmt.Errorf("sealing a client key: %w", err)
	}
	return nil
}

// seals remembers which records the token has unsealed, by all that they say, so that
// it is asked once for each.
type seals struct {
	mu     sync.Mutex
	intact map[[sha256.Size]byte]bool // guarded by mu
}

// maxSeals is more than there are client keys. If there come to be more, all are
// forgotten.
const maxSeals = 2 * maxClientKeys

func (s *seals) has(record [sha256.Size]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.intact[record]
}

func (s *seals) add(record [sha256.Size]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.intact == nil || len(s.intact) >= maxSeals {
		s.intact = make(map[[sha256.Size]byte]bool)
	}
	s.intact[record] = true
}

// checkSeal refuses a client key whose record is not as it was sealed. It is for
// callers who have shown that they have the key: a stranger cannot have the token do
// anything.
func (s *Server) checkSeal(ctx context.Context, k store.ClientKey) error {
	aad := clientKeyAAD(k)
	record := sha256.Sum256(append(aad, k.Sealed...))
	if s.seals.has(record) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	_, err := s.Sealer.Unseal(ctx, k.Sealed, aad)
	switch {
	case err == nil:
		s.seals.add(record)
		return nil
	case isTransient(err):
		return err
	}
	s.Logger.Error("the token does not unseal the record of a client key: somebody has changed the database, or it is another token's", "ClientKeyId", k.ClientKeyId, "reason", err)
	return fmt.Errorf("%w (its record: %w)", kms.ErrNativeClientKey, err)
}
