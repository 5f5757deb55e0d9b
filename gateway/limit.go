package gateway

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiters hold one token bucket for each user and class.
type limiters struct {
	perSecond map[class]float64 // a class that is not there has no limit

	mu      sync.Mutex
	buckets map[bucketId]*rate.Limiter // guarded by mu; as many as users × classes
}

type bucketId struct {
	userName string
	class    class
}

// charge takes one request from a user's quota, or gives Rejected.Throttling.
// A bucket holds one second's worth.
func (l *limiters) charge(userName string, cl class, now time.Time) error {
	perSecond, limited := l.perSecond[cl]
	if !limited {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	id := bucketId{userName, cl}
	bucket, ok := l.buckets[id]
	if !ok {
		bucket = rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
		if l.buckets == nil {
			l.buckets = make(map[bucketId]*rate.Limiter)
		}
		l.buckets[id] = bucket
	}
	if !bucket.AllowN(now, 1) {
		return errThrottling
	}
	return nil
}
