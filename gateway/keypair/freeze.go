package keypair

import (
	"context"
	"fmt"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
)

// A freeze keeps key pairs unchanged while a backup copies the token and the database, which must
// agree. Code that makes or destroys a key pair is inside the freeze from its first record to its
// last. A sync.RWMutex does not fit, because waiting must end with a context.
type freeze struct {
	mu      sync.Mutex    // guards all fields
	callers int           // the number of callers between enter and exit
	shut    chan struct{} // closed when the freeze opens; nil while it is open
	emptied chan struct{} // closed when the last caller exits; nil if close does not wait for it
}

// enter waits until the freeze is open. If it returns nil, the caller must call exit, and must not
// call enter until then.
func (f *freeze) enter(ctx context.Context) error {
	for {
		opens := f.tryEnter()
		if opens == nil {
			return nil
		}
		select {
		case <-opens:
		case <-ctx.Done():
			return fmt.Errorf("%w (no key pair is made or destroyed during a backup: %w)",
				kms.ErrUnavailable, ctx.Err())
		}
	}
}

// tryEnter enters and returns nil, or returns a channel that is closed when the freeze opens.
func (f *freeze) tryEnter() (opens <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shut == nil {
		f.callers++
	}
	return f.shut
}

func (f *freeze) exit() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.callers--
	if f.callers == 0 && f.emptied != nil {
		close(f.emptied)
		f.emptied = nil
	}
}

// close shuts the freeze and waits until no caller is inside. If it returns nil, the caller must call
// open. Only one caller at a time can shut the freeze.
func (f *freeze) close(ctx context.Context) (open func(), err error) {
	for {
		opens, emptied := f.tryClose()
		if emptied == nil { // another caller has shut it
			select {
			case <-opens:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("%w (another backup is running: %w)", kms.ErrUnavailable, ctx.Err())
			}
		}
		select {
		case <-emptied:
			return f.open, nil
		case <-ctx.Done():
			f.open()
			return nil, fmt.Errorf("%w (waiting for key pairs that are being made or destroyed: %w)",
				kms.ErrUnavailable, ctx.Err())
		}
	}
}

// tryClose shuts the freeze and returns emptied, a channel that is closed when no caller is inside. If
// the freeze is already shut, it returns opens instead, a channel that is closed when the freeze
// opens.
func (f *freeze) tryClose() (opens, emptied <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shut != nil {
		return f.shut, nil
	}
	f.shut, f.emptied = make(chan struct{}), make(chan struct{})
	emptied = f.emptied
	if f.callers == 0 {
		close(f.emptied)
		f.emptied = nil
	}
	return nil, emptied
}

func (f *freeze) open() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.shut)
	f.shut, f.emptied = nil, nil
}

// Enter waits until key pairs are not frozen, and delays the next Freeze until Exit. If it returns
// nil, the caller must call Exit, and must not call Enter or Create until then. If ctx ends first,
// the error is kms.ErrUnavailable.
func (p *Pairs) Enter(ctx context.Context) error { return p.freeze.enter(ctx) }

// Exit ends what a successful Enter began.
func (p *Pairs) Exit() { p.freeze.exit() }

// freezeTimeout limits how long Freeze waits for key pairs that are being made or destroyed.
var freezeTimeout = createTimeout(hsm.RSA_4096) + destroyTimeout

// Freeze waits until no key pair is being made or destroyed, and prevents both until thaw is
// called. Keys continue to sign. If the error is nil, the caller must call thaw, once. If the pairs
// being made or another freeze take too long, the error is kms.ErrUnavailable.
func (p *Pairs) Freeze(ctx context.Context) (thaw func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	return p.freeze.close(ctx)
}
