package appliance

import (
	"context"
	"errors"
	"fmt"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
	"github.com/kmsgate/kmsgate/hsm/sealed"
)

// An importer is a token that can import private keys.
type importer interface {
	Import(ctx context.Context, k privatekey.Key, id []byte) (hsm.Key, error)
}

// importing returns a Route that uses given private keys instead of new ones.
func importing(t hsm.Token, s *sealed.Backend, o Options) hsm.Backend {
	intoToken := func(_ context.Context, k privatekey.Key, _ []byte) (hsm.Key, error) {
		return hsm.Key{}, errors.New("the token cannot import private keys: leave private_key out of the seed")
	}
	if i, ok := t.(importer); ok {
		intoToken = i.Import
	}
	intoSealed := func(ctx context.Context, k privatekey.Key, id []byte) (hsm.Key, error) {
		return s.Import(ctx, k.Scalar(), id)
	}
	return hsm.Route{Token: given{t, o.Given, intoToken}, Sealed: given{s, o.Given, intoSealed}, Logger: o.Logger}
}

// given is a backend whose Generate imports a private key if there is one for the id.
type given struct {
	hsm.Backend
	find   func(id []byte) (privatekey.Key, bool)
	intake func(ctx context.Context, k privatekey.Key, id []byte) (hsm.Key, error)
}

func (g given) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	k, ok := g.find(id)
	if !ok {
		return g.Backend.Generate(ctx, spec, id)
	}
	if k.Spec() != spec {
		return hsm.Key{}, fmt.Errorf("%w: the given private key is of KeySpec %s, not %s", hsm.ErrKeySpec, k.Spec(), spec)
	}
	return g.intake(ctx, k, id)
}
