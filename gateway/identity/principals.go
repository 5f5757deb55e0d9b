package identity

import (
	"sync"

	"github.com/kmsgate/kmsgate/store"
)

// principals caches the users' principals for one set of records. A change makes a new set, and the next user
// to authenticate replaces the cache. It saves three allocations and a look-up of each policy by its text.
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
