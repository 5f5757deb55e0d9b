// Package journal makes a change of records and its audit line one transaction.
//
// It guarantees that every change reaches the audit log. [Journal.Update] writes the line
// into the transaction that makes the change (an outbox), [Journal.Append] writes it to
// the log, and a later change removes it from the database. If the log cannot write a line,
// the line is pending: [Journal.Flush] retries it, and so does [Open] after a restart.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/store"
)

// A Journal changes the records of a store and writes the changes to the audit log. Its
// methods are safe for concurrent use. Create one with [Open].
type Journal struct {
	records *store.Store
	log     *audit.Log
	logger  *slog.Logger

	mu        sync.Mutex
	removable []string      // RequestIds whose lines are in the log, but still in the outbox; guarded by mu
	pending   []audit.Entry // lines that the log could not write; guarded by mu
}

// Open returns the journal of a store and its log. First it appends the lines of changes
// that the log lacks because the last process ended before it wrote them. They are marked
// Late. If that fails, Open returns the error, and the records stay in the outbox.
func Open(records *store.Store, log *audit.Log, logger *slog.Logger) (*Journal, error) {
	j := &Journal{records: records, log: log, logger: logger}
	return j, j.recover()
}

// removedPerChange is how many outbox records one change removes at most, so that its time
// does not depend on how many there are. It is greater than one, so that their number falls.
const removedPerChange = 8

// Update calls f to change records, and writes entry, the audit line of the change, into
// the same transaction: both are on disk or neither is. It sets entry.Change. Its errors are f's and the
// store's. When Update returns nil, the caller must Append the entry. If the error is
// store.ErrUncertain and the change takes place later, the line is pending.
func (j *Journal) Update(entry *audit.Entry, f func(tx *store.Tx) error) error {
	line := *entry // the caller may change its own after Update has returned
	removed := j.takeRemovable(removedPerChange)
	late := func(err error) {
		if err == nil {
			j.addPending(line)
		}
	}
	err := j.records.UpdateLate(func(tx *store.Tx) error {
		if err := remove(tx, removed); err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return err
		}
		store.SetTxId(tx, line.RequestId)
		line.Change = tx.Number()
		text, err := json.Marshal(line)
		if err != nil {
			return fmt.Errorf("encoding the audit line of request %q: %w", line.RequestId, err)
		}
		return tx.Outbox().Put(store.Outbox{RequestId: line.RequestId, After: j.log.Head().Seq, Entry: text})
	}, late)
	if err != nil {
		j.addRemovable(removed...)
		return err
	}
	entry.Change = line.Change
	return nil
}

// Append writes the line of a change to the log and returns when it is on disk. If the log
// cannot write it, the line is pending, and Append returns the error of the log. If writing takes too
// long, Append returns an error, too, and the line is pending if it is not written after all.
func (j *Journal) Append(entry audit.Entry) error {
	written := func(err error) {
		if err != nil {
			j.addPending(entry)
			return
		}
		j.addRemovable(entry.RequestId)
	}
	err := j.log.AppendChange(entry, written)
	if !errors.Is(err, audit.ErrSlow) {
		written(err)
	}
	return err
}

// Pending reports whether there are lines that Append could not write to the log and Flush
// has not written since.
func (j *Journal) Pending() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.pending) > 0
}

// Flush appends the pending lines, marked Late, and removes the outbox records of all lines
// that are in the log. The next Flush retries whatever fails.
func (j *Journal) Flush() {
	pending := j.takePending()
	for i, entry := range pending {
		if j.Append(entry) != nil { // this line is pending again; the others would wait for the same fault
			j.addPending(pending[i+1:]...)
			break
		}
	}
	for removable := j.takeRemovable(store.MaxWrites); len(removable) > 0; removable = j.takeRemovable(store.MaxWrites) {
		if err := j.records.Update(func(tx *store.Tx) error { return remove(tx, removable) }); err != nil {
			j.addRemovable(removable...)
			j.logger.Warn("cannot remove logged audit lines from the database; will retry", "err", err)
			return
		}
	}
}

// remove removes outbox records.
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
	records := slices.Collect(j.records.Now().Outbox().All())
	if len(records) == 0 {
		return nil
	}
	after, ids := records[0].After, make([]string, len(records))
	for i, o := range records {
		after, ids[i] = min(after, o.After), o.RequestId
	}
	missing, err := j.log.Missing(after, ids)
	if err != nil {
		return fmt.Errorf("searching the audit log for the lines of changes in the database: %w", err)
	}
	for _, o := range records {
		if !slices.Contains(missing, o.RequestId) {
			j.addRemovable(o.RequestId)
			continue
		}
		var entry audit.Entry
		if err := json.Unmarshal(o.Entry, &entry); err != nil {
			return fmt.Errorf("decoding the audit line of request %q in the database: %w", o.RequestId, err)
		}
		entry.Late = true
		if err := j.Append(entry); err != nil {
			return err
		}
	}
	j.Flush()
	return nil
}

// takeRemovable returns up to n RequestIds and forgets them. The caller must remove their
// outbox records, or call addRemovable if that fails.
func (j *Journal) takeRemovable(n int) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	n = min(n, len(j.removable))
	taken := j.removable[:n:n]
	j.removable = j.removable[n:]
	return taken
}

func (j *Journal) addRemovable(requestIds ...string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.removable = append(j.removable, requestIds...)
}

func (j *Journal) addPending(entries ...audit.Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, entry := range entries {
		entry.Late = true
		j.pending = append(j.pending, entry)
	}
}

func (j *Journal) takePending() []audit.Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	pending := j.pending
	j.pending = nil
	return pending
}
