package limit

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Buckets holds one token bucket for each user and quota, and one for each quota of the
// whole instance. It forgets buckets that are full again, so its memory depends only on the
// users of the last seconds. The zero value is ready for use. The methods are safe for
// concurrent use.
type Buckets struct {
	mu        sync.Mutex
	clock     clock // guarded by mu, like the fields below
	buckets   map[bucketId]*rate.Limiter
	lastSweep time.Time // when full buckets were last forgotten
}

type bucketId struct {
	userName string // "" for all users together
	quota    kms.Quota
}

// Take takes one token from a user's bucket and reports whether there was one. A bucket
// holds the tokens of one second, and at least one. A changed limit applies at once. An
// empty userName means all users together; a perSecond of 0 means no limit.
func (b *Buckets) Take(userName string, quota kms.Quota, perSecond float64, now func() time.Time) bool {
	if perSecond <= 0 {
		return true
	}
	id := bucketId{userName, quota}
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.clock.read(now)
	bucket, ok := b.buckets[id]
	if !ok {
		forget(b.buckets, &b.lastSweep, t)
		bucket = rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
		if b.buckets == nil {
			b.buckets = make(map[bucketId]*rate.Limiter)
		}
		b.buckets[id] = bucket
	}
	if bucket.Limit() != rate.Limit(perSecond) {
		bucket.SetLimitAt(t, rate.Limit(perSecond))
		bucket.SetBurstAt(t, max(1, int(perSecond)))
	}
	return bucket.AllowN(t, 1)
}

// forget deletes the buckets that are full, because they do not differ from new ones. It does
// so at most once a second, since it takes 0.2 ms for MaxSources buckets. lastSweep is the
// time of the last deletion, which forget updates.
func forget[K comparable](buckets map[K]*rate.Limiter, lastSweep *time.Time, now time.Time) {
	if now.Sub(*lastSweep) < time.Second {
		return
	}
	*lastSweep = now
	for id, bucket := range buckets {
		if bucket.TokensAt(now) >= float64(bucket.Burst()) {
			delete(buckets, id)
		}
	}
}

// A clock returns the time and never goes back. If a bucket saw an earlier time than before,
// it would refill twice for the time in between.
type clock struct{ last time.Time }

func (c *clock) read(now func() time.Time) time.Time {
	if t := now(); t.After(c.last) {
		c.last = t
	}
	return c.last
}
