package identity

import (
	"sync"

	"github.com/kmsgate/kmsgate/store"
)

// principals holds the principals of the users who have authenticated since the records last changed. Records do
// not change, so it never holds an outdated one, and it holds at most one for each user. It saves three allocations
// and a look-up of each policy by its text.
type principals struct {
	mu      sync.RWMutex
	records *store.Records        // guarded by mu
	byUser  map[string]*Principal // of records; guarded by mu
}

// get returns the principal of a user, which newPrincipal makes if it is not there.
func (p *principals) get(records *store.Records, userName string,
	newPrincipal func(records *store.Records, userName string) (*Principal, error)) (*Principal, error) {
	p.mu.RLock()
	known, ok := p.byUser[userName]
	ok = ok && p.records == records
	p.mu.RUnlock()
	if ok {
		return known, nil
	}
	made, err := newPrincipal(records, userName)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.records != records {
		p.records, p.byUser = records, make(map[string]*Principal)
	}
	p.byUser[userName] = made
	return made, nil
}
