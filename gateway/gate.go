package gateway

import (
	"context"
	"fmt"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A gate keeps key pairs as they are while a backup copies the token and the
// database, which must belong together. Whoever makes or destroys a key pair is
// inside from its first record to its last. It is not a sync.RWMutex because
// waiting has to end with a context.
type gate struct {
	mu     sync.Mutex
	inside int           // guarded by mu
	shut   chan struct{} // closed when the gate opens; nil while it is open; guarded by mu
	left   chan struct{} // closed when nobody is inside any more; nil if nobody waits for it; guarded by mu
}

// enter waits until the gate is open. Without an error leave has to be called;
// enter must not be called again before.
func (g *gate) enter(ctx context.Context) error {
	for {
		opens := g.tryEnter()
		if opens == nil {
			return nil
		}
		select {
		case <-opens:
		case <-ctx.Done():
			return fmt.Errorf("%w (a backup is being made, and no key pair is made or destroyed meanwhile: %w)", kms.ErrUnavailable, ctx.Err())
		}
	}
}

// tryEnter enters, or gives what is closed when it can be tried again.
func (g *gate) tryEnter() (opens <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.inside++
	}
	return g.shut
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.left != nil {
		close(g.left)
		g.left = nil
	}
}

// close shuts the gate and waits until nobody is inside. Without an error open
// has to be called. One closes it at a time.
func (g *gate) close(ctx context.Context) (open func(), err error) {
	for {
		opens, left := g.tryClose()
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
			return g.open, nil
		case <-ctx.Done():
			g.open()
			return nil, fmt.Errorf("%w (key pairs are being made or destroyed: %w)", kms.ErrUnavailable, ctx.Err())
		}
	}
}

// tryClose shuts the gate and gives what is closed when nobody is inside, or,
// if it is shut, what is closed when it opens.
func (g *gate) tryClose() (opens, left <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		return g.shut, nil
	}
	g.shut, g.left = make(chan struct{}), make(chan struct{})
	left = g.left
	if g.inside == 0 {
		close(g.left)
		g.left = nil
	}
	return nil, left
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut, g.left = nil, nil
}
