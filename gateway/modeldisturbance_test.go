package gateway_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing/synctest"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
)

// A disturbance is what happens to a gateway while it serves clients.
type disturbance struct {
	Pause time.Duration // before it
	Kind  int           // an index of kindsOfDisturbance
}

func (d disturbance) String() string { return d.Pause.String() + " " + kindsOfDisturbance[d.Kind].name }

// kindsOfDisturbance are the kinds that programs choose from. A fault lasts until another kind ends
// it, or until all disturbances are over. rapid replaces those that do not matter by the first.
var kindsOfDisturbance = []struct {
	name string
	act  func(s *simulation)
}{
	{"an hour passes", func(s *simulation) { s.pass(time.Hour) }},
	{"three days pass", func(s *simulation) { s.pass(3 * day) }},
	{"four days pass", func(s *simulation) { s.pass(4 * day) }},
	{"eight days pass", func(s *simulation) { s.pass(8 * day) }},
	{"the gateway is restarted", (*simulation).restart},
	{"the gateway is killed", (*simulation).kill},
	{"the wall clock jumps ahead by eight days", func(s *simulation) { s.step(8 * day) }},
	{"the wall clock jumps ahead by a year", func(s *simulation) { s.step(365 * day) }},
	{"the wall clock jumps back by an hour", func(s *simulation) { s.step(-time.Hour) }},
	{"the wall clock jumps back by eight days", func(s *simulation) { s.step(-8 * day) }},
	{"the token is unavailable", func(s *simulation) { s.backend.Fail(hsm.ErrUnavailable) }},
	{"the token makes no key pairs", func(s *simulation) { s.backend.FailGenerate(hsm.ErrUnavailable) }},
	{"the token destroys no key pairs", func(s *simulation) { s.backend.FailDestroy(hsm.ErrUnavailable) }},
	{"the token hangs", (*simulation).hang},
	{"the token works again", (*simulation).healToken},
	{"the log is away", (*simulation).hideLog},
	{"the log is back", (*simulation).showLog},
	{"the database's next commit fails", (*simulation).failCommit},
	{"the database's next commit hangs", (*simulation).hangCommit},
	{"the database's disk works again", (*simulation).healDisk},
}

// pollPause is longer than the interval at which the gateway carries out deletions.
const pollPause = 11 * time.Second

// pass lets time pass. Requests in flight end before, so that each request belongs to one moment.
func (s *simulation) pass(d time.Duration) {
	p := s.leave()
	if p == nil {
		return
	}
	s.moveClocks(p, modelInput{action: passTime, passes: d})
}

// moveClocks moves the clocks once the requests in flight have ended, and puts the process into service
// again. It leaves the gateway the time to act on the clocks.
func (s *simulation) moveClocks(p *process, move modelInput) {
	p.calls.Wait()
	c := &modelCall{req: move, answered: true, status: 200, began: s.order.Add(1)}
	s.mu.Lock()
	s.passed += move.passes
	s.stepped += move.steps
	s.calls = append(s.calls, c)
	s.mu.Unlock()
	c.ended = s.order.Add(1)
	s.serve(p)
	time.Sleep(pollPause)
}

// step moves the wall clock alone.
func (s *simulation) step(d time.Duration) {
	p := s.leave()
	if p == nil {
		return
	}
	s.moveClocks(p, modelInput{action: passTime, steps: d})
}

// leave takes the process out of service: new requests wait for serve. It does not wait for the
// requests in flight. It returns nil if no process can serve any more.
func (s *simulation) leave() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.serving
	if p != nil {
		s.serving, s.serves = nil, make(chan struct{})
	}
	return p
}

// serve puts a process into service.
func (s *simulation) serve(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving = p
	close(s.serves)
}

// start starts a process on the files in dir and puts it into service. Its records must be those in
// before, unless before is empty.
func (s *simulation) start(dir, before string) {
	p, err := s.open(dir, before)
	if err == nil {
		s.serve(p)
		return
	}
	s.giveUp("a process does not start", err)
}

// giveUp ends the run, because no process can serve any more.
func (s *simulation) giveUp(kind string, err error) {
	s.fail(kind, "%v", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isOver = true
	close(s.serves)
}

// restart stops the gateway in good order and starts it again on the same files.
func (s *simulation) restart() {
	p := s.leave()
	if p == nil {
		return
	}
	s.showLogOf(p)
	p.healDisk()
	p.end()
	if err := p.close(); err != nil { // waits for a commit
		s.fail("a process does not stop", "%v", err)
	}
	s.start(p.dir, recordsText(p.db.Now()))
}

// kill ends a process while requests are in flight, which wait for the token. The next process
// starts on a copy of the files. The old one ends on its own files, without the token.
func (s *simulation) kill() {
	p := s.leave()
	if p == nil {
		return
	}
	synctest.Wait() // until nobody writes to the files
	close(p.token.killed)
	before := recordsText(p.db.Now())
	if dir, err := s.copyFiles(p.dir); err == nil {
		s.start(dir, before)
	} else {
		s.giveUp("the files cannot be copied", err)
	}
	p.healDisk()
	p.end()
	_ = p.close() // its log may be away
}

const (
	logName    = "audit.log"
	awaySuffix = ".away" // of the log's name while the log is away
)

// copyFiles copies a process's files to a new directory. A log that is away is back there.
func (s *simulation) copyFiles(from string) (string, error) {
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		return "", err
	}
	files, err := os.ReadDir(from)
	errs := []error{err}
	for _, f := range files {
		if f.IsDir() {
			continue // of another process
		}
		content, err := os.ReadFile(filepath.Join(from, f.Name()))
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, strings.TrimSuffix(f.Name(), awaySuffix)), content, 0o600))
	}
	return dir, errors.Join(errs...)
}

// hang makes calls of the token wait.
func (s *simulation) hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.answers:
		s.answers = make(chan struct{})
	default:
	}
}

// tokenAnswers returns a channel that is closed when the token does not hang.
func (s *simulation) tokenAnswers() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answers
}

// healToken ends all faults of the token.
func (s *simulation) healToken() {
	s.backend.Fail(nil)
	s.backend.FailGenerate(nil)
	s.backend.FailDestroy(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.answers:
	default:
		close(s.answers)
	}
}

// current returns the process that serves, or nil if none does.
func (s *simulation) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.serving
}

// failCommit makes the next commit fail. The change has not taken place when its caller gets the answer.
func (s *simulation) failCommit() {
	if p := s.current(); p != nil {
		p.healDisk()
		p.disk.FailCommit(errors.New("the flush failed"))
	}
}

// hangCommit makes the next commit hang. Its change takes place after the caller has got an answer that leaves that open.
func (s *simulation) hangCommit() {
	if p := s.current(); p != nil {
		p.healDisk()
		p.release = p.disk.HangCommit()
	}
}

func (s *simulation) healDisk() {
	if p := s.current(); p != nil {
		p.healDisk()
	}
}

// hideLog renames the log, so that it cannot be written.
func (s *simulation) hideLog() {
	p := s.current()
	if p == nil || p.hidden {
		return
	}
	path := filepath.Join(p.dir, logName)
	if err := os.Rename(path, path+awaySuffix); err != nil {
		s.fail("the log cannot be renamed", "%v", err)
		return
	}
	p.hidden = true
}

func (s *simulation) showLog() {
	if p := s.current(); p != nil {
		s.showLogOf(p)
	}
}

// showLogOf undoes hideLog.
func (s *simulation) showLogOf(p *process) {
	if !p.hidden {
		return
	}
	path := filepath.Join(p.dir, logName)
	if err := os.Rename(path+awaySuffix, path); err != nil {
		s.fail("the log cannot be renamed", "%v", err)
	}
	p.hidden = false
}

// heal ends all faults.
func (s *simulation) heal() {
	s.healToken()
	s.showLog()
	s.healDisk()
}
