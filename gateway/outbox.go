package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/store"
)

// An outbox sees to it that every change of records has its audit line. The line
// is written into the transaction that makes the change, then into the log, then
// it is removed from the database with one of the next changes. A line that the
// log did not take is owed, and tried again until it is there: by this process or
// by the next one, which finds it in the database.
type outbox struct {
	mu     sync.Mutex
	logged []string      // RequestIds whose records can go; guarded by mu
	owed   []audit.Entry // guarded by mu
}

// settledAtOnce bounds how many records one change removes, so that its time does
// not depend on those before. It is more than one, so they do not become more.
const settledAtOnce = 8

// takeLogged gives RequestIds whose records the caller is to remove.
func (o *outbox) takeLogged(n int) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	n = min(n, len(o.logged))
	taken := o.logged[:n:n]
	o.logged = o.logged[n:]
	return taken
}

func (o *outbox) setLogged(requestIds ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.logged = append(o.logged, requestIds...)
}

func (o *outbox) owe(e audit.Entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.owed = append(o.owed, e)
}

func (o *outbox) takeOwed() []audit.Entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	owed := o.owed
	o.owed = nil
	return owed
}

func (o *outbox) owes() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.owed) > 0
}

// update changes records and writes the entry, which stands for the change, into
// the same transaction.
func (s *Server) update(entry audit.Entry, f func(tx *store.Tx) error) error {
	settled := s.outbox.takeLogged(settledAtOnce)
	err := s.Store.Update(func(tx *store.Tx) error {
		for _, id := range settled {
			if err := tx.Outbox().Delete(id); err != nil {
				return err
			}
		}
		if err := f(tx); err != nil {
			return err
		}
		text, err := json.Marshal(entry)
		if err != nil {
			return fmt.Errorf("encoding an audit line: %w", err)
		}
		return tx.Outbox().Put(store.Outbox{RequestId: entry.RequestId, After: s.Audit.Head().Seq, Entry: text})
	})
	if err != nil {
		s.outbox.setLogged(settled...)
	}
	return err
}

// logChange appends the line of a change that was made. If the log does not take
// it, it is owed.
func (s *Server) logChange(entry audit.Entry) error {
	if err := s.Audit.Append(entry); err != nil {
		entry.Late = true
		s.outbox.owe(entry)
		return err
	}
	s.outbox.setLogged(entry.RequestId)
	return nil
}

// settle appends what is owed, and removes the records of what is in the log.
func (s *Server) settle() {
	for _, entry := range s.outbox.takeOwed() {
		_ = s.logChange(entry) // what fails is owed again
	}
	logged := s.outbox.takeLogged(1 << 20)
	if len(logged) == 0 {
		return
	}
	err := s.Store.Update(func(tx *store.Tx) error {
		for _, id := range logged {
			if err := tx.Outbox().Delete(id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.outbox.setLogged(logged...)
		s.Logger.Warn("audit lines that are in the log could not be removed from the database", "error", err)
	}
}

// Settle does what Run does when it ends, for a Server that was not run.
func (s *Server) Settle() {
	s.settle()
	if s.Audit.Err() == nil { // a disk that is full for the log is full for the database
		s.recordUse()
	}
	s.reportSuppressed()
}

// reportSuppressed writes the one line that stands for the refusals that have none. While
// the log cannot be written they are kept for later.
func (s *Server) reportSuppressed() {
	if s.Audit.Err() != nil {
		return
	}
	if n, last := s.unauthenticated.TakeSuppressed(); n > 0 {
		s.Audit.OfferSuppressed(s.Now().UTC(), n, last, func() { s.unauthenticated.CountAgain(n) })
	}
}

// recoverOutbox appends the lines that the last process had no time to append.
func (s *Server) recoverOutbox() error {
	left := slices.Collect(s.Store.Now().Outbox().All())
	if len(left) == 0 {
		return nil
	}
	from, ids := left[0].After, make([]string, len(left))
	for i, o := range left {
		from, ids[i] = min(from, o.After), o.RequestId
	}
	missing, err := s.Audit.Missing(from, ids)
	if err != nil {
		return fmt.Errorf("looking for the audit lines of changes: %w", err)
	}
	lacks := make(map[string]bool)
	for _, id := range missing {
		lacks[id] = true
	}
	for _, o := range left {
		if !lacks[o.RequestId] {
			s.outbox.setLogged(o.RequestId)
			continue
		}
		var entry audit.Entry
		if err := json.Unmarshal(o.Entry, &entry); err != nil {
			return fmt.Errorf("the audit line of request %s in the database: %w", o.RequestId, err)
		}
		entry.Late = true
		if err := s.logChange(entry); err != nil {
			return err
		}
	}
	s.settle()
	return nil
}
