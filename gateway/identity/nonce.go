package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// nonces remembers which nonces were used. It holds nothing of a request but a hash of 8 bytes. In a Go
// map that takes up to 24 bytes, on which the caller can count; as nonces are forgotten by the minute,
// nothing else is kept for each of them.
type nonces struct {
	seen func() time.Duration
	max  int               // how many nonces may be remembered
	key  [sha256.Size]byte // random, so that nobody can choose nonces with equal hashes

	mu       sync.Mutex
	minutes  map[int64]*minute // by the minute in which the nonces' requests expire; guarded by mu, like the fields below
	counts   map[string]int    // by AccessKeyId
	total    int
	refusals int // because there were too many
}

// A minute holds the nonces of the requests that expire in one minute.
type minute struct {
	hashes map[uint64]struct{}
	counts map[string]int // by AccessKeyId
	end    time.Duration  // in time seen: when the last of the requests expires
}

func newNonces(seen func() time.Duration, limit int) *nonces {
	n := &nonces{seen: seen, max: limit, minutes: make(map[int64]*minute), counts: make(map[string]int)}
	_, _ = rand.Read(n.key[:]) // never fails
	return n
}

func (n *nonces) hash(accessKeyId, nonce string) uint64 {
	var stack [512]byte // enough for every nonce that package acs accepts
	text := append(append(append(stack[:0], n.key[:]...), accessKeyId...), 0)
	sum := sha256.Sum256(append(text, nonce...))
	return binary.LittleEndian.Uint64(sum[:8])
}

// use remembers a nonce until a time, which it counts in time that is seen to pass: a clock that jumps
// makes it forget nothing. It returns kms.ErrNonceUsed if the nonce is remembered already, and
// kms.ErrTooManyNonces if there are too many and the access key has more than its share. accessKeyId
// must not be a part of the request, which it would keep in memory.
func (n *nonces) use(accessKeyId, nonce string, until, now time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	seen := n.seen()
	n.sweep(seen)
	hash := n.hash(accessKeyId, nonce)
	for _, m := range n.minutes { // at most 32, two for every minute of TimeWindow
		if _, used := m.hashes[hash]; used {
			return kms.ErrNonceUsed
		}
	}
	if n.isFull(accessKeyId) {
		n.refusals++
		return kms.ErrTooManyNonces
	}
	expires := until.Unix() / 60
	m := n.minutes[expires]
	if m == nil {
		m = &minute{hashes: make(map[uint64]struct{}), counts: make(map[string]int)}
		n.minutes[expires] = m
	}
	m.hashes[hash] = struct{}{}
	m.counts[accessKeyId]++
	m.end = max(m.end, seen+until.Sub(now))
	n.counts[accessKeyId]++
	n.total++
	return nil
}

// isFull reports whether an access key may have no more nonces. Once there are max nonces, an access key
// that has the average number or more gets no further ones, so that one program does not stop all
// others. At a quarter above max, no access key does.
func (n *nonces) isFull(accessKeyId string) bool {
	if n.total < n.max {
		return false
	}
	return n.total >= n.max+n.max/4 || n.counts[accessKeyId] >= n.total/max(1, len(n.counts))
}

// sweep forgets the nonces whose requests have expired.
func (n *nonces) sweep(seen time.Duration) {
	for expires, m := range n.minutes {
		if m.end >= seen { // at its end the gateway may still accept a request
			continue
		}
		for accessKeyId, count := range m.counts {
			if n.counts[accessKeyId] -= count; n.counts[accessKeyId] == 0 {
				delete(n.counts, accessKeyId)
			}
		}
		n.total -= len(m.hashes)
		delete(n.minutes, expires)
	}
}

// NonceStats are figures about the nonces that are remembered.
type NonceStats struct {
	Total, Max int
	Refusals   int // requests refused because there were too many nonces
}

// Nonces returns the figures of this moment.
func (r *Registry) Nonces() NonceStats {
	n := r.nonces
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sweep(n.seen())
	return NonceStats{n.total, n.max, n.refusals}
}
