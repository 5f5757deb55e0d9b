package keypair

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/store"
)

// A useLog holds when key versions last signed, until RecordUse writes that to their records.
type useLog struct {
	mu   sync.Mutex
	last map[string]lastUse // by KeyVersionId; guarded by mu
}

type lastUse struct {
	keyId string
	date  time.Time
}

// Used notes that a version has signed now.
func (p *Pairs) Used(version store.KeyVersion) {
	now := p.cfg.Now().UTC()
	p.uses.mu.Lock()
	defer p.uses.mu.Unlock()
	if p.uses.last == nil {
		p.uses.last = make(map[string]lastUse)
	}
	p.uses.last[version.KeyVersionId] = lastUse{version.KeyId, now}
}

// LastUsed returns when a version last signed, including signatures that RecordUse has not
// recorded yet. It returns the zero time if the version has never signed.
func (p *Pairs) LastUsed(version store.KeyVersion) time.Time {
	p.uses.mu.Lock()
	defer p.uses.mu.Unlock()
	if use, ok := p.uses.last[version.KeyVersionId]; ok {
		return use.date
	}
	return version.LastUsedDate
}

// RecordUse writes to the records of key versions when they last signed. It logs a failure, after
// which the unrecorded dates are lost.
func (p *Pairs) RecordUse() {
	p.uses.mu.Lock()
	used := p.uses.last
	p.uses.last = nil
	p.uses.mu.Unlock()
	if len(used) == 0 {
		return
	}
	var err error
	for ids := range slices.Chunk(slices.Collect(maps.Keys(used)), store.MaxWrites) {
		err = errors.Join(err, p.cfg.Records.Update(func(tx *store.Tx) error {
			for _, id := range ids {
				use := used[id]
				version, err := tx.Version(use.keyId, id)
				if errors.Is(err, store.ErrNotFound) {
					continue // it was deleted after it signed
				}
				if err != nil {
					return err
				}
				version.LastUsedDate = use.date
				if err := tx.Versions().Put(version); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	if err != nil {
		p.cfg.Logger.Warn("recording when key versions last signed failed", "err", err)
	}
}
