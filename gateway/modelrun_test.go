package gateway_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
)

// A simulation runs a program against a gateway in a bubble of testing/synctest, where time passes
// only while all goroutines wait for it. The gateway and its files are real; the token is a fake.
// Nothing in the bubble waits for a lock while its holder waits for time, because time would stand
// still.
type simulation struct {
	dir     string // with a directory for each process after a kill
	backend *hsmtest.Fake
	order   atomic.Int64 // numbers the beginnings and the ends of calls

	mu       sync.Mutex    // guards the fields below
	began    time.Time     // when the bubble began
	passed   time.Duration // how far both clocks were moved
	stepped  time.Duration // how far the wall clock alone was moved
	answers  chan struct{} // closed unless the token hangs
	serving  *process      // nil while there is none
	serves   chan struct{} // closed when a process serves, and when there will be none any more
	isOver   bool          // no process will serve any more
	ended    string        // the directory of the last process, once that has ended without a fault
	slots    [modelSlots]string
	made     int                 // how many keys and versions were asked for
	versions map[string][]string // KeyId → KeyVersionIds that were acknowledged
	calls    []*modelCall
	failures []failure
	withheld map[uint64]bool // the lines that the log calls unanswered
}

// A failure is a difference from what must be. The kind is the same for the same mistake.
type failure struct{ kind, detail string }

func newSimulation(dir string) *simulation {
	return &simulation{dir: dir, backend: new(hsmtest.Fake), versions: make(map[string][]string), withheld: make(map[uint64]bool)}
}

func (s *simulation) fail(kind, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, failure{kind, fmt.Sprintf(format, args...)})
}

// patience is more time than any program takes. A bubble with tickers never ends by itself.
const patience = 24 * time.Hour

// run runs a program. It must be called in a bubble.
func (s *simulation) run(p program) {
	s.began, s.serves, s.answers = time.Now(), make(chan struct{}), make(chan struct{})
	close(s.answers)
	finished := make(chan struct{})
	defer close(finished)
	go func() {
		select {
		case <-finished:
		case <-time.After(patience):
			stacks := make([]byte, 1<<20)
			panic(fmt.Sprintf("a program has not ended after %v:\n%s", patience, stacks[:runtime.Stack(stacks, true)]))
		}
	}()
	s.start(s.dir, "")
	for slot := range modelSlots - 1 {
		s.request(0, request{Action: "CreateKey", Slot: slot})
		s.request(0, request{Action: "CreateAlias", Slot: slot, Alias: slot})
	}
	var clients sync.WaitGroup
	for i, requests := range p.Clients {
		clients.Go(func() {
			for _, r := range requests {
				time.Sleep(r.Pause)
				s.request(i+1, r)
			}
		})
	}
	for _, d := range p.Disturbances {
		time.Sleep(d.Pause)
		kindsOfDisturbance[d.Kind].act(s)
	}
	s.heal()
	clients.Wait()
	s.conclude()
}

// enter returns the serving process and counts a request in flight. It waits for a process, and
// returns nil if no process will serve any more.
func (s *simulation) enter() *process {
	for {
		s.mu.Lock()
		p, serves, isOver := s.serving, s.serves, s.isOver
		if p != nil {
			p.calls.Add(1)
		}
		s.mu.Unlock()
		if p != nil || isOver {
			return p
		}
		<-serves
	}
}

// conclude lets all deletions fall due, and checks the final records and key pairs. It ends the
// process.
func (s *simulation) conclude() {
	time.Sleep(pollPause)
	s.pass(25 * time.Hour) // a clock that jumped is believed after a day at most
	s.pass(100 * day)      // more than all steps back together
	s.restart()
	time.Sleep(pollPause)
	for _, keyId := range s.created() {
		for _, action := range []string{"DescribeKey", "ListKeyVersions", "ListResourceTags", "ListAliasesByKeyId"} {
			s.call(0, modelInput{action: action, keyId: keyId}, "")
		}
	}
	s.call(0, modelInput{action: "ListKeys"}, "")
	s.call(0, modelInput{action: "ListAliases"}, "")
	p := s.leave()
	if p == nil {
		return
	}
	p.server.CarryOutDeletions(context.Background())
	s.checkPairs(p.db.Now())
	if _, err := keypair.VerifyAll(context.Background(), p.db, s.backend, s.backend); err != nil {
		s.fail("a recorded version does not sign", "%v", err)
	}
	p.end()
	if err := p.close(); err != nil {
		s.fail("a process does not stop", "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = p.dir
}

// created returns the ids of all keys that were asked for.
func (s *simulation) created() (keyIds []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c.req.action == "CreateKey" {
			keyIds = append(keyIds, c.req.keyId)
		}
	}
	return keyIds
}

// checkPairs checks that no key waits for its deletion, and that the token has one key pair for
// each version and no other.
func (s *simulation) checkPairs(records *store.Records) {
	for k := range records.Keys().All() {
		if k.KeyState == store.PendingDeletion {
			s.fail("a key whose deletion is due was not deleted", "key %s, due at %v, now %v", k.KeyId, k.DeleteDate, s.wall())
		}
	}
	var want []string
	for v := range records.Versions().All() {
		want = append(want, string(v.Key.ID))
	}
	slices.Sort(want)
	var got []string
	for _, id := range s.backend.IDs() {
		got = append(got, string(id))
	}
	orphans := slices.Collect(records.Orphans().All())
	if !slices.Equal(got, want) || len(orphans) > 0 {
		s.fail("the token does not have the recorded key pairs", "token: %x\nrecords: %x\norphans: %+v", got, want, orphans)
	}
}
