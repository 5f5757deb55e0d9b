package identity

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// maxNonces is how many nonces are remembered for one access key. It allows some 550 requests
// per second for half an hour.
const maxNonces = 1_000_000

// nonces remembers which nonces were used. The zero value is ready for use.
type nonces struct {
	mu    sync.Mutex
	seen  map[nonceHash]struct{}  // guarded by mu, like the fields below
	count map[string]int          // of nonces, by AccessKeyId
	byEnd map[int64][]endingNonce // by the first minute in which they can be forgotten
	swept int64                   // the minute of the last sweep
}

// A nonceHash represents an AccessKeyId and a nonce in 16 bytes, so that a long nonce costs
// no more memory than a short one.
type nonceHash [16]byte

type endingNonce struct {
	hash        nonceHash
	accessKeyId string
}

func hashNonce(accessKeyId, nonce string) nonceHash {
	sum := sha256.Sum256([]byte(accessKeyId + "\x00" + nonce))
	return nonceHash(sum[:16])
}

// use remembers a nonce until a time. It returns kms.ErrNonceUsed if the nonce is remembered
// already, and kms.ErrThrottling if the access key has too many.
func (n *nonces) use(accessKeyId, nonce string, until, now time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sweep(now)
	hash := hashNonce(accessKeyId, nonce)
	if _, used := n.seen[hash]; used {
		return kms.ErrNonceUsed
	}
	if n.count[accessKeyId] >= maxNonces {
		return kms.ErrThrottling
	}
	if n.seen == nil {
		n.seen = make(map[nonceHash]struct{})
		n.count = make(map[string]int)
		n.byEnd = make(map[int64][]endingNonce)
	}
	n.seen[hash] = struct{}{}
	n.count[accessKeyId]++
	end := minute(until) + 1
	n.byEnd[end] = append(n.byEnd[end], endingNonce{hash, accessKeyId})
	return nil
}

// sweep forgets the nonces that are past their time, at most once a minute.
func (n *nonces) sweep(now time.Time) {
	if minute(now) == n.swept {
		return
	}
	n.swept = minute(now)
	for end, ending := range n.byEnd {
		if end > n.swept {
			continue
		}
		for _, e := range ending {
			delete(n.seen, e.hash)
			if n.count[e.accessKeyId]--; n.count[e.accessKeyId] == 0 {
				delete(n.count, e.accessKeyId)
			}
		}
		delete(n.byEnd, end)
	}
}

func minute(t time.Time) int64 { return t.Unix() / 60 }
