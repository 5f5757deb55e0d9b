// Package journal makes a change of records and its audit line one transaction.
//
// It guarantees that no change escapes the audit log. [Journal.Update] writes the line
// into the transaction that makes the change (an outbox), [Journal.Append] writes it to
// the log, and a later change removes it from the database. A line that the log did not
// take is pending: [Journal.Flush] retries it, and so does [Open] after a restart.
package journal

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/store"
)

// A Journal changes the records of a store and writes the changes to the audit log. Its
// methods may be called from any goroutine. Use [Open].
type Journal struct {
	records *store.Store
	log     *audit.Log
	logger  *slog.Logger

	mu      sync.Mutex
	logged  []string      // RequestIds whose outbox records can go; guarded by mu
	pending []audit.Entry // guarded by mu
}

// Open returns the journal of a store and its log. First it appends the lines of changes
// that the log lacks, because the last process ended before it appended them. They are
// marked Late. If that fails, Open returns the error, and the records stay in the outbox.
func Open(records *store.Store, log *audit.Log, logger *slog.Logger) (*Journal, error) {
	j := &Journal{records: records, log: log, logger: logger}
	return j, j.recover()
}

// removedPerChange bounds how many outbox records one change removes, so that its time
// does not depend on those before. It is more than one, so they do not become more.
const removedPerChange = 8

// Update calls f to change records, and writes entry, the audit line of the change, into
// the same transaction: both are on disk or neither is. Its errors are f's and the
// store's. When Update returns nil, the caller must Append the entry.
func (j *Journal) Update(entry audit.Entry, f func(tx *store.Tx) error) error {
	removed := j.takeLogged(removedPerChange)
	err := j.records.Update(func(tx *store.Tx) error {
		if err := remove(tx, removed); err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return err
		}
		text, err := json.Marshal(entry)
		if err != nil {
			return fmt.Errorf("encoding an audit line: %w", err)
		}
		return tx.Outbox().Put(store.Outbox{RequestId: entry.RequestId, After: j.log.Head().Seq, Entry: text})
	})
	if err != nil {
		j.setLogged(removed...)
	}
	return err
}

// Append writes the line of a change to the log and returns when it is on disk. If the log
// cannot write it, the line is pending, and Append returns the log's error.
func (j *Journal) Append(entry audit.Entry) error {
	if err := j.log.Append(entry); err != nil {
		entry.Late = true
		j.mu.Lock()
		defer j.mu.Unlock()
		j.pending = append(j.pending, entry)
		return err
	}
	j.setLogged(entry.RequestId)
	return nil
}

// Pending reports whether the log refused the line of a change, and Flush has not appended
// it since.
func (j *Journal) Pending() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.pending) > 0
}

// Flush appends the pending lines, marked Late, and removes from the database the records
// of all lines that are in the log. What fails is tried again by the next Flush.
func (j *Journal) Flush() {
	for _, entry := range j.takePending() {
		_ = j.Append(entry) // what fails is pending again
	}
	logged := j.takeLogged(1 << 20)
	if len(logged) == 0 {
		return
	}
	if err := j.records.Update(func(tx *store.Tx) error { return remove(tx, logged) }); err != nil {
		j.setLogged(logged...)
		j.logger.Warn("audit lines that are in the log could not be removed from the database", "error", err)
	}
}

func remove(tx *store.Tx, requestIds []string) error {
	for _, id := range requestIds {
		if err := tx.Outbox().Delete(id); err != nil {
			return err
		}
	}
	return nil
}

// recover appends the lines in the outbox that the log lacks.
func (j *Journal) recover() error {
	left := slices.Collect(j.records.Now().Outbox().All())
	if len(left) == 0 {
		return nil
	}
	from, ids := left[0].After, make([]string, len(left))
	for i, o := range left {
		from, ids[i] = min(from, o.After), o.RequestId
	}
	missing, err := j.log.Missing(from, ids)
	if err != nil {
		return fmt.Errorf("looking for the audit lines of changes: %w", err)
	}
	for _, o := range left {
		if !slices.Contains(missing, o.RequestId) {
			j.setLogged(o.RequestId)
			continue
		}
		var entry audit.Entry
		if err := json.Unmarshal(o.Entry, &entry); err != nil {
			return fmt.Errorf("the audit line of request %s in the database: %w", o.RequestId, err)
		}
		entry.Late = true
		if err := j.Append(entry); err != nil {
			return err
		}
	}
	j.Flush()
	return nil
}

// takeLogged returns up to n RequestIds whose records the caller is to remove.
func (j *Journal) takeLogged(n int) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	n = min(n, len(j.logged))
	taken := j.logged[:n:n]
	j.logged = j.logged[n:]
	return taken
}

func (j *Journal) setLogged(requestIds ...string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.logged = append(j.logged, requestIds...)
}

func (j *Journal) takePending() []audit.Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	pending := j.pending
	j.pending = nil
	return pending
}
