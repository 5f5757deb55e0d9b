package keypair

import (
	"context"
	"fmt"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// A freeze keeps key pairs as they are while a backup copies the token and the database,
// which must agree. Code that makes or destroys a key pair is inside from its first record
// to its last. It is not a sync.RWMutex because waiting has to end with a context.
type freeze struct {
	mu     sync.Mutex
	inside int           // guarded by mu
	shut   chan struct{} // closed when the freeze ends; nil while it is open; guarded by mu
	left   chan struct{} // closed when nobody is inside any more; nil if nobody waits for it; guarded by mu
}

// enter waits until the freeze has ended. Without an error leave has to be called;
// enter must not be called again before.
func (f *freeze) enter(ctx context.Context) error {
	for {
		opens := f.tryEnter()
		if opens == nil {
			return nil
		}
		select {
		case <-opens:
		case <-ctx.Done():
			return fmt.Errorf("%w (a backup is being made, and until it ends no key pair is made or destroyed: %w)", kms.ErrUnavailable, ctx.Err())
		}
	}
}

// tryEnter enters, or gives what is closed when it can be tried again.
func (f *freeze) tryEnter() (opens <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shut == nil {
		f.inside++
	}
	return f.shut
}

func (f *freeze) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inside--
	if f.inside == 0 && f.left != nil {
		close(f.left)
		f.left = nil
	}
}

// close begins the freeze and waits until nobody is inside. Without an error open
// has to be called. One closes it at a time.
func (f *freeze) close(ctx context.Context) (open func(), err error) {
	for {
		opens, left := f.tryClose()
		if left == nil { // somebody else has closed it
			select {
			case <-opens:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("%w (another backup is being made: %w)", kms.ErrUnavailable, ctx.Err())
			}
		}
		select {
		case <-left:
			return f.open, nil
		case <-ctx.Done():
			f.open()
			return nil, fmt.Errorf("%w (key pairs are being made or destroyed: %w)", kms.ErrUnavailable, ctx.Err())
		}
	}
}

// tryClose shuts the freeze and gives what is closed when nobody is inside, or,
// if it is shut, what is closed when it opens.
func (f *freeze) tryClose() (opens, left <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shut != nil {
		return f.shut, nil
	}
	f.shut, f.left = make(chan struct{}), make(chan struct{})
	left = f.left
	if f.inside == 0 {
		close(f.left)
		f.left = nil
	}
	return nil, left
}

func (f *freeze) open() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.shut)
	f.shut, f.left = nil, nil
}

// Enter waits until no freeze holds, and keeps the next one waiting until Leave. If it
// returns nil, the caller must call Leave, and must not call Enter or Create until then.
// If ctx ends first, the error is kms.ErrUnavailable.
func (p *Pairs) Enter(ctx context.Context) error { return p.freeze.enter(ctx) }

// Leave ends what a successful Enter began.
func (p *Pairs) Leave() { p.freeze.leave() }

// freezeTime is how long a freeze waits for the key pairs that are being made.
var freezeTime = createTimeout(hsm.RSA_4096) + destroyTimeout

// Freeze waits until no key pair is being made or destroyed, and keeps it so until thaw is
// called. Keys sign meanwhile. If it returns nil, the caller must call thaw, once. If the
// pairs being made take too long or another freeze does, the error is kms.ErrUnavailable.
func (p *Pairs) Freeze(ctx context.Context) (thaw func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, freezeTime)
	defer cancel()
	return p.freeze.close(ctx)
}
