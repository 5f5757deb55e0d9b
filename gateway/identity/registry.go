package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/policy"
	"github.com/kmsgate/kmsgate/store"
)

// TimeWindow is the greatest difference between a request's time stamp and the gateway's
// clock, in either direction. So a nonce must be remembered until TimeWindow after the time
// stamp of its request.
const TimeWindow = 15 * time.Minute

// unsealTime is the time that the token has to unseal a record.
const unsealTime = 2500 * time.Millisecond

// A Registry holds the unsealed secrets of access keys, the used nonces, and the parsed
// policies. Its methods are safe for concurrent use. Create one with [Open].
type Registry struct {
	arns   kms.ARNs
	sealer hsm.Sealer
	logger *slog.Logger

	secrets     secrets
	principals  principals
	nonces      *nonces
	seals       seals
	ramPolicies documents
	keyPolicies documents
}

// A Config configures a Registry. All fields are required.
type Config struct {
	ARNs   kms.ARNs
	Sealer hsm.Sealer // unseals the secrets of access keys
	Logger *slog.Logger

	Now       func() time.Time
	Seen      func() time.Duration // how much time the process has seen pass
	MaxNonces int                  // how many nonces may be remembered
}

// Open returns a Registry with the secrets of all access keys, which it has the token
// unseal, and the nonces in records that can still be replayed. It fails if the token
// cannot unseal one of the secrets.
func Open(ctx context.Context, records *store.Records, cfg Config) (*Registry, error) {
	r := &Registry{arns: cfg.ARNs, sealer: cfg.Sealer, logger: cfg.Logger, nonces: newNonces(cfg.Seen, cfg.MaxNonces)}
	r.ramPolicies.parse, r.keyPolicies.parse = policy.Parse, policy.ParseKeyPolicy
	for a := range records.AccessKeys().All() {
		secret, err := UnsealAccessKey(ctx, cfg.Sealer, a)
		if err != nil {
			return nil, fmt.Errorf("unsealing access key %q: %w", a.AccessKeyId, err)
		}
		r.Keep(a, secret)
	}
	now := cfg.Now()
	for n := range records.Nonces().All() {
		if n.Until.Before(now) { // at Until, the request can still be replayed
			continue
		}
		err := r.nonces.use(n.AccessKeyId, n.Nonce, n.Until, now)
		// Records have a nonce twice if the clock was set back. One that does not fit into the memory is
		// refused by the records.
		if err != nil && !errors.Is(err, kms.ErrNonceUsed) && !errors.Is(err, kms.ErrTooManyNonces) {
			return nil, fmt.Errorf("restoring the nonces of access key %q: %w", n.AccessKeyId, err)
		}
	}
	return r, nil
}
