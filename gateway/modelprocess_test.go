package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/hsmtest"
	"github.com/kmsgate/kmsgate/store"
	"github.com/kmsgate/kmsgate/store/storetest"
)

// A process is a gateway from its start to its stop, or to its kill.
type process struct {
	dir     string // of its database and its log
	token   *processToken
	disk    storetest.Disk // of its database
	db      *store.Store
	log     *audit.Log
	server  *gateway.Server
	calls   sync.WaitGroup // the requests in flight
	stopRun context.CancelFunc
	running sync.WaitGroup // the Server's Run
	hidden  bool           // the log's file is away; used by one goroutine only
	release func()         // ends the hang of a commit; nil if there is none; used by that goroutine only
}

// modelStart is where the wall clock of a simulation starts.
var modelStart = time.Date(2026, 11, 21, 20, 56, 37, 0, time.UTC)

// seen returns the time that the process can see to pass. A clock step does not change it.
func (s *simulation) seen() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.began) + s.passed
}

// wall returns the time of the wall clock.
func (s *simulation) wall() time.Time {
	seen := s.seen()
	s.mu.Lock()
	defer s.mu.Unlock()
	return modelStart.Add(seen + s.stepped)
}

// setClock makes the gateway use the clocks of the simulation.
func (s *simulation) setClock(cfg *gateway.Config) { cfg.Now, cfg.Seen = s.wall, s.seen }

// open starts a process on the files in dir. Its records must be those in before, unless before is
// empty.
func (s *simulation) open(dir, before string) (*process, error) {
	p := &process{dir: dir}
	p.disk.Timeout = 5 * time.Second // a gateway's
	p.token = &processToken{Fake: s.backend, simulation: s, killed: make(chan struct{})}
	var err error
	if p.db, err = p.disk.Open(filepath.Join(dir, "db")); err != nil {
		return nil, err
	}
	if before == "" {
		err = p.db.Update(func(tx *store.Tx) error { return tx.SetInstance(instance) })
	} else if after := recordsText(p.db.Now()); after != before {
		s.fail("a restart changed the records", "before:\n%s\nafter:\n%s", before, after)
	}
	if err == nil {
		p.log, err = audit.Open(audit.Config{Path: filepath.Join(dir, logName), Logger: quiet})
	}
	if err != nil {
		return nil, errors.Join(err, p.db.Close())
	}
	cfg := gateway.Config{Store: p.db, Backend: p.token, Sealer: s.backend, Audit: p.log, MinVersionInterval: -1, Logger: quiet}
	s.setClock(&cfg)
	ctx, stop := context.WithCancel(context.Background())
	if p.server, err = gateway.New(ctx, cfg); err != nil {
		stop()
		return nil, errors.Join(err, p.close())
	}
	p.stopRun = stop
	p.running.Go(func() { p.server.Run(ctx) })
	return p, nil
}

// healDisk ends the faults of the database's disk.
func (p *process) healDisk() {
	p.disk.FailCommit(nil) // the next commit has no fault
	if p.release != nil {
		p.release()
		p.release = nil
	}
}

// end waits for the requests in flight and ends the periodic work.
func (p *process) end() {
	p.calls.Wait()
	p.stopRun()
	p.running.Wait()
}

func (p *process) close() error { return errors.Join(p.log.Close(), p.db.Close()) }

// recordsText returns what a restart must not change: the keys, their versions and the aliases.
func recordsText(records *store.Records) string {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	var errs []error
	for k := range records.Keys().All() {
		errs = append(errs, encoder.Encode(k))
	}
	for v := range records.Versions().All() {
		v.LastUsedDate = time.Time{} // it is written late
		errs = append(errs, encoder.Encode(v))
	}
	for a := range records.Aliases().All() {
		errs = append(errs, encoder.Encode(a))
	}
	if err := errors.Join(errs...); err != nil {
		return err.Error()
	}
	return text.String() + "end of the records"
}

// tokenTime is how long the token takes to begin a call, and to return from it.
const tokenTime = 20 * time.Millisecond

// A processToken is the token as one process reaches it. A process that is killed reaches it no
// more.
type processToken struct {
	*hsmtest.Fake
	simulation *simulation
	killed     chan struct{} // closed when the process is killed
}

func (t *processToken) isKilled() bool {
	select {
	case <-t.killed:
		return true
	default:
		return false
	}
}

// travel waits as long as a call needs to reach the token, or to return from it.
func (t *processToken) travel(ctx context.Context) error {
	select {
	case <-time.After(tokenTime):
	case <-ctx.Done():
	case <-t.killed:
	}
	select {
	case <-t.simulation.tokenAnswers():
	case <-ctx.Done():
	case <-t.killed:
	}
	if t.isKilled() {
		return hsm.ErrUnavailable
	}
	return ctx.Err()
}

func (t *processToken) Generate(ctx context.Context, spec hsm.KeySpec, id []byte) (hsm.Key, error) {
	if err := t.travel(ctx); err != nil {
		return hsm.Key{}, err
	}
	k, err := t.Fake.Generate(ctx, spec, id)
	return k, errors.Join(err, t.travel(ctx))
}

func (t *processToken) Sign(ctx context.Context, k hsm.Key, alg hsm.Algorithm, digest []byte) ([]byte, error) {
	if err := t.travel(ctx); err != nil {
		return nil, err
	}
	signature, err := t.Fake.Sign(ctx, k, alg, digest)
	return signature, errors.Join(err, t.travel(ctx))
}

func (t *processToken) Destroy(ctx context.Context, k hsm.Key) error {
	if err := t.travel(ctx); err != nil {
		return err
	}
	return errors.Join(t.Fake.Destroy(ctx, k), t.travel(ctx))
}

func (t *processToken) Has(k hsm.Key) error {
	if t.isKilled() {
		return hsm.ErrUnavailable
	}
	return t.Fake.Has(k)
}

// Health answers from memory, as a token does, so it does not hang.
func (t *processToken) Health(ctx context.Context) error {
	select {
	case <-t.simulation.tokenAnswers():
	default:
		return hsm.ErrUnavailable
	}
	if t.isKilled() {
		return hsm.ErrUnavailable
	}
	return t.Fake.Health(ctx)
}
