package gateway

import (
	"context"

	"github.com/kmsgate/kmsgate/hsm"
)

type generateRandomRequest struct {
	Length *int `kms:"required"` // in bytes
}

type generateRandomResponse struct {
	result
	Random base64Bytes
}

// generateRandom gives bytes that the token makes. KMS has it for programs with
// client keys only.
func generateRandom(ctx context.Context, c *call, req *generateRandomRequest) (*generateRandomResponse, error) {
	random, err := c.random(ctx, *req.Length)
	return &generateRandomResponse{Random: random}, err
}

func (c *call) random(ctx context.Context, n int) ([]byte, error) {
	if hsm.CheckRandom(n) != nil {
		return nil, invalidParameter("Length", "%d is not 1 to %d", n, hsm.MaxRandom)
	}
	if err := c.authorizeKeyless(); err != nil {
		return nil, err
	}
	if c.server.Random == nil {
		return nil, hsm.ErrNoRandom
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	return c.server.Random.Random(ctx, n)
}
