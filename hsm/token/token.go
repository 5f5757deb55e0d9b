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

// Config selects a token and configures its use.
type Config struct {
	Module string // path of the PKCS#11 module, a shared library
	Label  string // the token's label; alternative to Serial. Slot numbers change, labels do not
	Serial string // the token's serial number; alternative to Label
	PIN    PIN    // the user PIN

	// Sessions is how many signatures the token makes at once. Zero means one for each
	// core, which suits a token in software: there, more sessions than cores gain nothing
	// and increase latency. A network HSM needs more.
	Sessions int

	// Queue is how many operations may wait for a session. Further operations fail with
	// hsm.ErrBusy. Zero means 1024.
	Queue int

	// NoSessionCopies turns session copies of keys off. If it is false, keys in use sign
	// through copies in a session, provided that a trial at connecting shows that copies
	// are possible and faster. See copies.go.
	NoSessionCopies bool

	// Copies is the maximum number of session copies. Zero means 1024.
	Copies int

	// CopyIdle is how long a session copy must be idle before another may replace it. Zero
	// means 10 s.
	CopyIdle time.Duration

	// UserType is the CK_USER_TYPE of the login. Zero means CKU_USER; 0x80000001 is the
	// crypto user of some vendors.
	UserType uint

	// Provision makes the sealing key and the canary key if the token lacks them.
	Provision bool

	// InsistOnPIN makes the first login use PIN even if RefusedPINFile says that the token
	// refused it, or the token reports that one more wrong PIN locks it. A locked token is left
	// alone anyway. Set it only if the PIN is known to be right.
	InsistOnPIN bool

	// ReadPIN, if not nil, reads the PIN again from where PIN came from. A Token calls it after
	// the token has refused the PIN that worked before, and then every second until it returns a
	// PIN that the token has not refused. Nil means that the PIN cannot change.
	ReadPIN func() (PIN, error)

	// RefusedPINFile is the path of a file that remembers the PINs which the token has refused
	// since the last login, as salted hashes. Only a login with InsistOnPIN uses one of them. One process at a time
	// may use the file. If it is empty, only this process knows which PINs were refused.
	RefusedPINFile string

	// BeforeLogin, if not nil, is called before every login. AfterChange, if not nil, is
	// called after objects were made or destroyed, before the result is returned to the
	// caller. Both are for the guard of SoftHSM's files.
	BeforeLogin func() error
	AfterChange func() error

	// OnLoss, if not nil, is called when the connection is lost.
	OnLoss func()

	// OnHang is called when the token hangs: a call into the module has not returned within its limit,
	// and a canary signature in another session does not return either. Without a connection, there is
	// no such signature, and the limit is six times HangAfter. The call cannot be cancelled, and the module cannot be
	// finalized during it. So the process should exit and its supervisor restart it. Nil means panic.
	OnHang func(error)

	// WatchEvery is the interval of canary signatures, and RecheckEvery the interval at which the
	// copier checks that the token still has the keys of session copies. Zero means 5 s and 30 s.
	WatchEvery   time.Duration
	RecheckEvery time.Duration

	// HangAfter is the limit of a call, and GenerateAfter that of a call that makes a key. While such
	// a call is in flight, others may take as long. Time in which the process does not run does not
	// count. Zero means 30 s and 10 minutes.
	HangAfter     time.Duration
	GenerateAfter time.Duration

	Logger *slog.Logger // nil means slog.Default()

	now func() time.Time // the watchdog's clock; tests set it
}

func (c Config) withDefaults() (Config, error) {
	if c.Module == "" {
		return c, errors.New("token: Config.Module is empty: set the path of the PKCS#11 module")
	}
	if (c.Label == "") == (c.Serial == "") {
		return c, errors.New("token: Config needs either Label or Serial, not both")
	}
	if c.Sessions < 0 || c.Queue < 0 || c.Copies < 0 {
		return c, errors.New("token: Config.Sessions, Config.Queue and Config.Copies cannot be negative")
	}
	if c.PIN == "" {
		return c, errors.New("token: Config.PIN is empty: set the token's user PIN")
	}
	c.Sessions = cmp.Or(c.Sessions, runtime.NumCPU())
	c.Queue = cmp.Or(c.Queue, 1024)
	c.Copies = cmp.Or(c.Copies, 1024)
	c.CopyIdle = cmp.Or(c.CopyIdle, 10*time.Second)
	c.WatchEvery = cmp.Or(c.WatchEvery, 5*time.Second)
	c.HangAfter = cmp.Or(c.HangAfter, 30*time.Second)
	c.GenerateAfter = cmp.Or(c.GenerateAfter, 10*time.Minute)
	c.RecheckEvery = cmp.Or(c.RecheckEvery, 30*time.Second)
	if c.now == nil {
		c.now = time.Now
	}
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

// A Token is an hsm.Token and an hsm.Counter on a PKCS#11 token. A process may
// open only one Token for a module at a time, because a Token initializes and finalizes the
// module for the whole process. Use [Open].
type Token struct {
	cfg    Config
	log    *slog.Logger
	module *p11.Module
	pins   pins // used by the goroutine that connects

	current atomic.Pointer[connection] // nil while disconnected
	downErr atomic.Pointer[error]      // why the token is disconnected; nil if unknown
	losses  atomic.Int64               // lost connections

	previousKeys int // how many keys the previous connection knew; used by connect only

	reserved atomic.Pointer[[]byte] // the CKA_ID of the key that Reserve keeps for the audit log

	serial atomic.Bool // overlap has found that the module does one call at a time

	seeking atomic.Bool // a search for a key that is not in the table runs or ended a moment ago

	randomHistory randomHistory

	jobs    *queue // for the workers that sign, seal and make random bytes
	changes *queue // for the one worker that changes the token
	probes  *queue // for the workers that only make canary signatures for the watchdog

	// slowChanges is for the worker that makes and destroys RSA_4096 key pairs. A client waits
	// 10 s for a key, and such a pair takes seconds. A few of them in the queue for changes
	// would make other creations and deletions miss their deadlines.
	slowChanges *queue

	closing   chan struct{}
	closeOnce sync.Once
	done      chan struct{} // closed when the supervisor has returned, after which no job is done
	doneErr   error         // why; set before done is closed
}

var (
	_ hsm.Token   = (*Token)(nil)
	_ hsm.Counter = (*Token)(nil)
)

// Open connects to the token and logs in, with one attempt at most. The error is hsm.ErrPIN if
// the PIN is the reason, and hsm.ErrUnavailable otherwise. The Token reconnects after a loss,
// with the PIN that worked. If the token refuses that PIN, operations fail with hsm.ErrUnavailable
// and hsm.ErrPIN until Config.ReadPIN returns the right one.
func Open(cfg Config) (*Token, error) {
	t, err := newToken(cfg)
	if err != nil {
		return nil, err
	}
	go t.watch()
	go (&watchdog{token: t}).run() // before connecting, which can hang too
	c, err := t.connect(t.cfg.Provision)
	if err != nil {
		close(t.done)
		return nil, fmt.Errorf("connecting to the token with %s: %w", t.cfg.tokenName(), err)
	}
	go t.supervise(c)
	return t, nil
}

// newToken loads the module and returns a Token that is not connected.
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
		pins:    newPINs(cfg),
		jobs:    newQueue(cfg.Queue, cfg.Sessions),
		changes: newQueue(cfg.Queue, 1),
		probes:  newQueue(probers, probers),

		slowChanges: newQueue(cfg.Queue, 1),
		closing:     make(chan struct{}),
		done:        make(chan struct{}),
	}, nil
}

// closeTimeout is how long Close waits for calls in flight. Making a key pair can take minutes.
const closeTimeout = 10 * time.Second

// Close finalizes the module, which logs out, once the calls in flight have returned. If one of them takes
// longer than 10 s, Close returns an error, and the process should exit. Waiting jobs fail with
// hsm.ErrUnavailable.
func (t *Token) Close() error {
	t.closeOnce.Do(func() { close(t.closing) })
	select {
	case <-t.done:
		return nil
	case <-time.After(closeTimeout):
		return explain(t, errors.New("a call into the token has not returned"))
	}
}

// Health returns nil if the token makes a good signature now. While disconnected, it
// returns the reason at once.
func (t *Token) Health(ctx context.Context) error {
	if t.current.Load() == nil {
		return t.outage()
	}
	if err := occupied(t); err != nil {
		return err
	}
	if err := t.canary(ctx, t.jobs); err != nil {
		return explain(t, err)
	}
	return nil
}

// outage returns the error for calls while the token is disconnected.
func (t *Token) outage() error {
	if err := t.downErr.Load(); err != nil {
		return explain(t, fmt.Errorf("%w: %w", hsm.ErrUnavailable, *err))
	}
	return explain(t, fmt.Errorf("%w: the gateway is connecting to it", hsm.ErrUnavailable))
}

// canary has a worker of q make and verify a canary signature.
func (t *Token) canary(ctx context.Context, q *queue) error {
	_, err := run(ctx, t, q, func(s *session) (struct{}, error) {
		return struct{}{}, s.checkAlive()
	})
	return err
}

// Has returns nil if k's private key is in the table of keys that the scan at connecting and
// later creations fill. While disconnected, it returns ErrUnavailable.
func (t *Token) Has(k hsm.Key) error { return has(t, labelKey, k) }

// has is Has for a key that is for a use.
func has(t *Token, use string, k hsm.Key) error {
	c := t.current.Load()
	if c == nil {
		return t.outage()
	}
	switch o := c.table(use, k.ID).get(k.ID); {
	case o == nil:
		return errNoKey(k.ID)
	case o.duplicate:
		return errDuplicateKey(k.ID)
	}
	return nil
}

// Stats are figures about a Token for the operator.
type Stats struct {
	Connected bool
	Losses    int64 // lost connections since Open
	Waiting   int64 // callers waiting for the token
	Copies    bool  // frequently used keys sign through session copies (Config.NoSessionCopies)

	// OneAtATime: the module is known to do one call at a time. If making a key takes longer than 2 s,
	// signatures fail with hsm.ErrUnavailable until it is made.
	OneAtATime bool
}

// Stats returns the current figures.
func (t *Token) Stats() Stats {
	c := t.current.Load()
	return Stats{
		Connected: c != nil,
		Losses:    t.losses.Load(),
		Waiting:   t.jobs.callers.Load() + t.changes.callers.Load() + t.slowChanges.callers.Load(),
		Copies:    c != nil && c.copies.enabled(),

		OneAtATime: oneAtATime(t),
	}
}

// supervise replaces lost connections until Close.
func (t *Token) supervise(c *connection) {
	defer close(t.done)
	for c != nil {
		select {
		case <-c.lost:
			t.losses.Add(1)
			t.log.Error("connection to the token lost; reconnecting", "token", t.cfg.tokenName(), "err", c.lossReason())
			t.cfg.OnLoss()
		case <-t.closing:
			c.lose(errClosed)
		}
		t.previousKeys = c.handles.len() + c.audit.len()
		t.downErr.Store(&c.lossErr)
		t.current.Store(nil)
		c.workers.Wait()
		c.close()
		c = t.reconnect()
	}
}

// The pause before reconnecting doubles from minPause to maxPause. After slowAfter it is
// slowPause, since SoftHSM rewrites a file of the token at each login.
const (
	minPause  = 10 * time.Millisecond
	maxPause  = 100 * time.Millisecond
	slowPause = 500 * time.Millisecond
	slowAfter = 30 * time.Second
)

// reconnect tries to connect until it succeeds. After Close, it sets t.doneErr and returns nil.
func (t *Token) reconnect() *connection {
	reported, began := "", time.Now()
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		if time.Since(began) > slowAfter {
			pause = slowPause
		}
		select {
		case <-t.closing:
			t.doneErr = errClosed
			return nil
		default:
		}
		c, err := t.connect(false)
		if err == nil {
			t.log.Info("reconnected to the token", "token", t.cfg.tokenName())
			return c
		}
		t.downErr.Store(&err)
		if errors.Is(err, hsm.ErrPIN) {
			t.pins.await(t, err)
			continue
		}
		if reason := err.Error(); reason != reported { // log each reason once, not at every try
			t.log.Warn("the token is still unavailable; retrying", "token", t.cfg.tokenName(), "err", reason)
			reported = reason
		}
		select {
		case <-t.closing:
		case <-time.After(pause):
		}
	}
}

var errClosed = fmt.Errorf("%w: the connection was closed", hsm.ErrUnavailable)
