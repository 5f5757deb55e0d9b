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

// randomBlock is the size in bytes of the blocks that are compared. It is so large that a
// good generator never makes the same block twice.
const randomBlock = 16

// Random has the token make n random bytes. It requests whole blocks, so that it can compare
// them, and drops the bytes that are not needed.
func (t *Token) Random(ctx context.Context, n int) ([]byte, error) {
	if err := hsm.CheckRandom(n); err != nil {
		return nil, err
	}
	whole := (n + randomBlock - 1) / randomBlock * randomBlock
	out, err := run(ctx, t, t.jobs, func(s *session) ([]byte, error) { return s.random(whole) })
	if err != nil {
		return nil, err
	}
	if err := t.randomHistory.check(out, whole); err != nil {
		t.log.Error("random bytes withheld", "token", t.cfg.tokenName(), "err", err)
		return nil, fmt.Errorf("%w: %w", hsm.ErrNoRandom, err)
	}
	return out[:n:n], nil
}

func (s *session) random(n int) ([]byte, error) {
	if s.conn.noRandom {
		return nil, hsm.ErrNoRandom
	}
	out, err := s.p11.Random(n)
	if p11.Is(err, pkcs11.CKR_RANDOM_NO_RNG, pkcs11.CKR_FUNCTION_NOT_SUPPORTED) {
		if err := s.checkAlive(); err != nil { // a broken token may return any error
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", hsm.ErrNoRandom, p11.Cause(err))
	}
	return out, err
}

// randomHistory detects a random number generator that is stuck. It applies the continuous
// test of FIPS 140-2, section 4.9.2. It also remembers the first blocks of the last outputs,
// to detect generators that restart with each call or each session. It outlives connections.
// The zero value is ready for use.
type randomHistory struct {
	mu     sync.Mutex
	blocks [64][randomBlock]byte // the first blocks of the last outputs; guarded by mu
	next   int                   // the index in blocks to replace next; guarded by mu
}

// errStuck warns the operator that not only random bytes are at risk: one known nonce of an
// ECDSA signature is enough to compute the key.
var errStuck = errors.New("its generator is broken and repeats itself; keys that it made, " +
	"and EC keys that it signed with, may be known (take the token out of service)")

// check returns an error unless the output has the wanted length and may be returned to the
// caller. The output consists of whole blocks.
func (h *randomHistory) check(out []byte, want int) error {
	if len(out) != want {
		return fmt.Errorf("its generator returned %d bytes instead of %d", len(out), want)
	}
	var previous []byte
	for block := range slices.Chunk(out, randomBlock) {
		if bytes.Count(block, block[:1]) == len(block) || bytes.Equal(block, previous) {
			return errStuck
		}
		previous = block
	}
	return h.remember([randomBlock]byte(out))
}

// remember remembers the first block of an output. It returns an error if the history
// already has the block.
func (h *randomHistory) remember(first [randomBlock]byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Contains(h.blocks[:], first) {
		return errStuck
	}
	h.blocks[h.next] = first
	h.next = (h.next + 1) % len(h.blocks)
	return nil
}
