package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// randomBlock is how many random bytes are looked at together: so many that a good
// generator never makes the same ones twice.
const randomBlock = 16

// Random has the token make n random bytes. It is asked for whole blocks, so that
// there is enough to look at, and what is not needed is dropped.
func (t *Token) Random(ctx context.Context, n int) ([]byte, error) {
	if err := hsm.CheckRandom(n); err != nil {
		return nil, err
	}
	whole := (n + randomBlock - 1) / randomBlock * randomBlock
	out, err := run(ctx, t, t.jobs, func(s *session) ([]byte, error) { return s.random(whole) })
	if err != nil {
		return nil, err
	}
	if err := t.randoms.check(out, whole); err != nil {
		t.log.Error("random bytes of the token were withheld", "token", t.cfg.name(), "reason", err)
		return nil, fmt.Errorf("%w: %w", hsm.ErrNoRandom, err) // a broken one is of no use
	}
	return out[:n:n], nil
}

func (s *session) random(n int) ([]byte, error) {
	if s.conn.noRandom {
		return nil, hsm.ErrNoRandom
	}
	out, err := s.p11.Random(n)
	if p11.Is(err, pkcs11.CKR_RANDOM_NO_RNG, pkcs11.CKR_FUNCTION_NOT_SUPPORTED) {
		if err := s.checkAlive(); err != nil { // a broken token may say anything
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", hsm.ErrNoRandom, p11.Cause(err))
	}
	return out, err
}

// randoms is what is remembered of the random bytes that a token made, to tell whether
// its generator is stuck: the continuous test of FIPS 140-2, section 4.9.2, and beyond
// that a memory for generators that restart with each call or each session. It
// outlives connections. The zero value is ready for use.
type randoms struct {
	mu     sync.Mutex
	begins [64][randomBlock]byte // what the last outputs began with; guarded by mu
	next   int                   // of begins, to be replaced; guarded by mu
}

// errStuck tells the operator that more than random bytes is at stake: the nonce of one
// ECDSA signature is enough to compute the key.
var errStuck = errors.New("its random number generator repeats itself: it is broken, so keys that it made, and keys on curves that it signed with, may be known; take the token out of service")

// check reports whether an output may be given out. It is whole blocks.
func (r *randoms) check(out []byte, want int) error {
	if len(out) != want {
		return fmt.Errorf("its random number generator gave %d bytes instead of %d", len(out), want)
	}
	var before []byte
	for block := range slices.Chunk(out, randomBlock) {
		if bytes.Count(block, block[:1]) == len(block) || bytes.Equal(block, before) {
			return errStuck
		}
		before = block
	}
	return r.remember([randomBlock]byte(out))
}

// remember refuses an output that begins as another one did.
func (r *randoms) remember(begin [randomBlock]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.begins[:], begin) {
		return errStuck
	}
	r.begins[r.next] = begin
	r.next = (r.next + 1) % len(r.begins)
	return nil
}
