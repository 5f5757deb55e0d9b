package token

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
	"github.com/kmsgate/kmsgate/internal/secret"
)

// A PIN is a token's user PIN. It prints as a placeholder.
type PIN = secret.Text

// ErrPIN: the token refused the PIN, or has so few attempts left that none was
// made. It is final: trying again can lock the token.
var ErrPIN = errors.New("the token's PIN was not accepted")

// Config says which token to use, and how.
type Config struct {
	Module string // path of the PKCS#11 module, a shared library
	Label  string // the token's label; slot numbers change, labels do not. This or Serial
	Serial string // the token's serial number
	PIN    PIN    // of the token's user

	// Sessions is how many signatures the token makes at once. Zero means one for each
	// core, which suits a token in software: more sessions than cores gain nothing
	// there and cost latency. A network HSM needs more.
	Sessions int

	// Queue is how many operations may wait for a session before further ones
	// are refused with hsm.ErrBusy. Zero means 1024.
	Queue int

	// NoSessionCopies has every signature be made with the key itself. Zero means that
	// keys in use are signed with through copies in a session, where a trial at
	// connecting shows that they are possible and faster. See copies.go.
	NoSessionCopies bool

	// Copies is how many session copies of keys there are at most. Zero means 1024.
	Copies int

	// CopyIdle is how long a session copy must have been idle before it makes room for
	// another. Zero means 10 s.
	CopyIdle time.Duration

	// UserType is the CK_USER_TYPE of the login. Zero means CKU_USER; 0x80000001 is the
	// crypto user of some vendors.
	UserType uint

	// Provision makes the sealing key and the canary key if the token has none.
	Provision bool

	// InsistOnPIN uses the PIN although the token says that few attempts are left. Set
	// it only if the PIN is known to be right.
	InsistOnPIN bool

	// BeforeLogin, if not nil, is called before every login. AfterChange, if not nil, is
	// called after objects were made or destroyed, before the caller is told. They are
	// for the guard of SoftHSM's files.
	BeforeLogin func() error
	AfterChange func() error

	// OnLoss, if not nil, is called when the connection is lost.
	OnLoss func()

	// OnHang is called when a call into the module, BeforeLogin or AfterChange has not
	// returned within HangAfter. The call can be neither cancelled nor finalized over,
	// so the process should exit for its supervisor to restart it. Nil panics.
	OnHang func(error)

	// WatchEvery is the interval of canary signatures, HangAfter how long a call may
	// take, and RecheckEvery the interval at which the keys of session copies are
	// looked for in the token. Zero means 5 s, 30 s and 30 s.
	WatchEvery   time.Duration
	HangAfter    time.Duration
	RecheckEvery time.Duration

	Logger *slog.Logger // nil means slog.Default()
}

func (c Config) withDefaults() (Config, error) {
	if c.Module == "" {
		return c, errors.New("token: Config.Module is empty: name the PKCS#11 module's path")
	}
	if (c.Label == "") == (c.Serial == "") {
		return c, errors.New("token: Config needs the token's Label or its Serial, and not both")
	}
	if c.Sessions < 0 || c.Queue < 0 || c.Copies < 0 {
		return c, errors.New("token: Config.Sessions, Config.Queue and Config.Copies cannot be negative")
	}
	if c.PIN == "" {
		return c, errors.New("token: Config.PIN is empty: give the token's user PIN")
	}
	c.Sessions = cmp.Or(c.Sessions, runtime.NumCPU())
	c.Queue = cmp.Or(c.Queue, 1024)
	c.Copies = cmp.Or(c.Copies, 1024)
	c.CopyIdle = cmp.Or(c.CopyIdle, 10*time.Second)
	c.WatchEvery = cmp.Or(c.WatchEvery, 5*time.Second)
	c.HangAfter = cmp.Or(c.HangAfter, 30*time.Second)
	c.RecheckEvery = cmp.Or(c.RecheckEvery, 30*time.Second)
	noop := func() error { return nil }
	if c.BeforeLogin == nil {
		c.BeforeLogin = noop
	}
	if c.AfterChange == nil {
		c.AfterChange = noop
	}
	if c.OnLoss == nil {
		c.OnLoss = func() {}
	}
	if c.OnHang == nil {
		c.OnHang = func(err error) { panic(err) }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

// A Token is an hsm.Backend, hsm.Sealer and hsm.Randomizer on a PKCS#11 token. Only one Token
// may be open in a process for one module: it initializes and finalizes the
// module for all of the process. Use [Open].
type Token struct {
	cfg    Config
	log    *slog.Logger
	module *p11.Module

	current atomic.Pointer[connection] // nil while there is none
	downErr atomic.Pointer[error]      // why there is none; nil while it is not known
	losses  atomic.Int64

	keysBefore int // how many the previous connection knew; for connecting only

	seeking atomic.Bool // a search for a key that is not in the table runs, or ran a moment ago

	randoms randoms // that the token made

	jobs    *queue // for the workers that sign, seal and make random bytes
	changes *queue // for the one worker that changes the token

	// For one more worker, which makes and destroys RSA_4096 key pairs. A client waits
	// 10 s for a key, and such a pair takes seconds: a few of them in one queue with
	// everything else would let other creations and deletions miss their deadlines.
	slowChanges *queue

	closing   chan struct{}
	closeOnce sync.Once
	done      chan struct{} // closed when the supervisor has returned: no job will be done any more
	doneErr   error         // why; set before done is closed
}

var (
	_ hsm.Backend    = (*Token)(nil)
	_ hsm.Sealer     = (*Token)(nil)
	_ hsm.Randomizer = (*Token)(nil)
)

// Open connects to the token and logs in. Its error is ErrPIN if the PIN is the
// reason, else hsm.ErrUnavailable. After Open the connection looks after
// itself.
func Open(cfg Config) (*Token, error) {
	t, err := newToken(cfg)
	if err != nil {
		return nil, err
	}
	go t.watch() // connecting can hang, too
	c, err := t.connect(t.cfg.Provision)
	if err != nil {
		close(t.done)
		return nil, fmt.Errorf("connecting to the token with %s: %w", t.cfg.name(), err)
	}
	go t.supervise(c)
	return t, nil
}

// newToken loads the module.
func newToken(cfg Config) (*Token, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	module, err := p11.Load(cfg.Module)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	return &Token{
		cfg:     cfg,
		log:     cfg.Logger,
		module:  module,
		jobs:    newQueue(cfg.Queue, cfg.Sessions),
		changes: newQueue(cfg.Queue, 1),

		slowChanges: newQueue(cfg.Queue, 1),
		closing:     make(chan struct{}),
		done:        make(chan struct{}),
	}, nil
}

// Close logs out and finalizes the module once the calls in flight are done.
// Jobs that still wait fail with hsm.ErrUnavailable.
func (t *Token) Close() error {
	t.closeOnce.Do(func() { close(t.closing) })
	<-t.done
	return nil
}

// Health reports nil if the token makes a good signature now. While there is no
// connection it says at once why.
func (t *Token) Health(ctx context.Context) error {
	if t.current.Load() == nil {
		return t.down()
	}
	return t.canary(ctx)
}

// down returns the error for calls while there is no connection.
func (t *Token) down() error {
	if err := t.downErr.Load(); err != nil {
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, *err)
	}
	return fmt.Errorf("%w: it is being connected to", hsm.ErrUnavailable)
}

func (t *Token) canary(ctx context.Context) error {
	_, err := run(ctx, t, t.jobs, func(s *session) (struct{}, error) {
		return struct{}{}, s.checkAlive()
	})
	return err
}

// Has reports nil if the scan at connecting, or a creation since, found k's
// private key. While there is no connection it is ErrUnavailable.
func (t *Token) Has(k hsm.Key) error {
	c := t.current.Load()
	if c == nil {
		return t.down()
	}
	switch o := c.handles.get(k.ID); {
	case o == nil:
		return fmt.Errorf("%w: the token has no key with CKA_ID %x", hsm.ErrNotFound, k.ID)
	case o.duplicate:
		return fmt.Errorf("%w: the token has several keys with CKA_ID %x and it cannot be told which is ours", hsm.ErrNotFound, k.ID)
	}
	return nil
}

// Stats are figures about a Token, for its operator.
type Stats struct {
	Connected bool
	Losses    int64 // of the connection, since Open
	Waiting   int64 // callers waiting for the token
	Copies    bool  // keys that are used often are signed with through session copies (Config.NoSessionCopies)

	// OneAtATime: the module takes one call at a time, so one that takes long
	// holds up all others.
	OneAtATime bool
}

// Stats returns the figures of this moment.
func (t *Token) Stats() Stats {
	c := t.current.Load()
	return Stats{
		Connected: c != nil,
		Losses:    t.losses.Load(),
		Waiting:   t.jobs.callers.Load() + t.changes.callers.Load() + t.slowChanges.callers.Load(),
		Copies:    c != nil && c.copies.enabled(),

		OneAtATime: c != nil && t.module.OneAtATime(),
	}
}

// watch watches the token also while it is idle. It has a worker make canary
// signatures, so that a loss is found and unsealed keys are dropped, and it finds calls
// that do not return.
func (t *Token) watch() {
	tick := time.NewTicker(t.cfg.WatchEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.done:
			return
		case <-tick.C:
		}
		if call, took := t.module.Longest(); took > t.cfg.HangAfter {
			t.cfg.OnHang(fmt.Errorf("%s has not returned from %s for %v: it can be neither cancelled nor closed over, so this process has to be restarted",
				t.cfg.Module, call, took.Round(time.Second)))
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), t.cfg.WatchEvery)
		_ = t.Health(ctx) // the worker that fails draws the consequence
		cancel()
	}
}

// supervise replaces the connection whenever it is lost, until Close or until
// the token refuses the PIN.
func (t *Token) supervise(c *connection) {
	defer close(t.done)
	for c != nil {
		select {
		case <-c.lost:
			t.losses.Add(1)
			t.log.Error("the connection to the token is lost; connecting anew", "token", t.cfg.name(), "reason", c.lossReason())
			t.cfg.OnLoss()
		case <-t.closing:
			c.lose(errClosed)
		}
		t.keysBefore = c.handles.len()
		t.downErr.Store(&c.lossErr)
		t.current.Store(nil)
		c.workers.Wait()
		c.close()
		c = t.reconnect()
	}
}

// The pause before reconnecting doubles from firstPause to longestPause. After
// patientAfter it is patientPause, since SoftHSM rewrites a file of the token at each
// login.
const (
	firstPause   = 10 * time.Millisecond
	longestPause = 100 * time.Millisecond
	patientPause = 500 * time.Millisecond
	patientAfter = 30 * time.Second
)

// reconnect connects until it succeeds. It returns nil when there is no use in
// going on, with t.doneErr set.
func (t *Token) reconnect() *connection {
	reported, began := "", time.Now()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if time.Since(began) > patientAfter {
			pause = patientPause
		}
		select {
		case <-t.closing:
			t.doneErr = errClosed
			return nil
		default:
		}
		c, err := t.connect(false)
		if err == nil {
			t.log.Info("connected to the token again", "token", t.cfg.name())
			return c
		}
		t.downErr.Store(&err)
		if errors.Is(err, ErrPIN) {
			t.log.Error("the token refuses the PIN; not trying again: set the right PIN and restart", "token", t.cfg.name(), "reason", err)
			t.doneErr = fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
			return nil
		}
		if reason := err.Error(); reason != reported { // once for each reason, not at every try
			t.log.Warn("the token is not back yet; trying on", "token", t.cfg.name(), "reason", reason)
			reported = reason
		}
		select {
		case <-t.closing:
		case <-time.After(pause):
		}
	}
}

var errClosed = fmt.Errorf("%w: it was closed", hsm.ErrUnavailable)
