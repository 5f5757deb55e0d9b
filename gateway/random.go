package gateway

import (
	"context"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// generateRandom returns random bytes from the token. In KMS, only programs with client
// keys can call it.
func generateRandom(ctx context.Context, c *call, req *kms.GenerateRandomRequest) (*kms.GenerateRandomResponse, error) {
	random, err := randomBytes(ctx, c, *req.Length)
	return &kms.GenerateRandomResponse{Random: random}, err
}

func randomBytes(ctx context.Context, c *call, n int) ([]byte, error) {
	if hsm.CheckRandom(n) != nil {
		return nil, kms.InvalidParameter("Length", "%d is not 1 to %d", n, hsm.MaxRandom)
	}
	if err := c.authorizeOperation(); err != nil {
		return nil, err
	}
	if c.server.config.Random == nil {
		return nil, hsm.ErrNoRandom
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	return c.server.config.Random.Random(ctx, n)
}
