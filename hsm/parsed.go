package hsm

import "sync"

var parsed = parsedKeys{keys: make(map[parsedId]publicKey)}

// parsedKeys holds parsed public keys by what they were parsed from, so no entry ever becomes
// invalid. For P-256 that saves 12 of the 22 allocations of a verification, and a tenth of its time.
type parsedKeys struct {
	mu   sync.RWMutex
	keys map[parsedId]publicKey // guarded by mu; the keys do not change
}

type parsedId struct {
	spec   KeySpec
	public string // Key.Public
}

// maxParsed is the greatest number of parsed keys. A P-256 key takes 0.5 KB, and the largest RSA key
// 2 KB.
const maxParsed = 8192

func (p *parsedKeys) get(k Key) (publicKey, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	pub, ok := p.keys[parsedId{k.Spec, string(k.Public)}]
	return pub, ok
}

// put stores a key. At maxParsed it first drops an arbitrary one, so a program with more keys still finds most of
// them.
func (p *parsedKeys) put(k Key, pub publicKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.keys) >= maxParsed {
		for id := range p.keys {
			delete(p.keys, id)
			break
		}
	}
	p.keys[parsedId{k.Spec, string(k.Public)}] = pub
}
