package limit

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Buckets hold one token bucket for each user and quota, and one for each quota of the
// whole instance. They forget buckets that are full again, so their memory depends on the
// users of the last seconds only. The zero value is ready for use. The methods are safe for
// concurrent use.
type Buckets struct {
	mu      sync.Mutex
	clock   clock // guarded by mu, like all below
	buckets map[bucketId]*rate.Limiter
	swept   time.Time // when full buckets were last forgotten
}

type bucketId struct {
	userName string // "" for all users together
	quota    kms.Quota
}

// Take takes one token from a user's bucket and reports whether there was one. A bucket
// holds the tokens of one second, and at least one. A limit that was changed applies at
// once. An empty userName means all users together; perSecond of 0 means no limit.
func (b *Buckets) Take(userName string, name kms.Quota, perSecond float64, now func() time.Time) bool {
	if perSecond <= 0 {
		return true
	}
	id := bucketId{userName, name}
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.clock.read(now)
	bucket, ok := b.buckets[id]
	if !ok {
		forget(b.buckets, &b.swept, at)
		bucket = rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
		if b.buckets == nil {
			b.buckets = make(map[bucketId]*rate.Limiter)
		}
		b.buckets[id] = bucket
	}
	if bucket.Limit() != rate.Limit(perSecond) {
		bucket.SetLimitAt(at, rate.Limit(perSecond))
		bucket.SetBurstAt(at, max(1, int(perSecond)))
	}
	return bucket.AllowN(at, 1)
}

// forget deletes the buckets that are full at now: a new one would be the same. It does so
// at most once a second, because it takes 0.2 ms for MaxSources buckets. The time of the
// last sweep is in swept.
func forget[K comparable](buckets map[K]*rate.Limiter, swept *time.Time, now time.Time) {
	if now.Sub(*swept) < time.Second {
		return
	}
	*swept = now
	for id, bucket := range buckets {
		if bucket.TokensAt(now) >= float64(bucket.Burst()) {
			delete(buckets, id)
		}
	}
}

// A clock never goes back. A bucket that was shown an earlier time than before would
// refill twice for the time in between.
type clock struct{ last time.Time }

func (c *clock) read(now func() time.Time) time.Time {
	if at := now(); at.After(c.last) {
		c.last = at
	}
	return c.last
}
