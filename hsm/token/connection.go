package token

import (
	"cmp"
	"errors"
	"fmt"
	"sync"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
)

// A connection is one logged-in use of the module. It is used until it is lost
// and then closed; nothing in it survives.
type connection struct {
	token   *Token
	c11     *crypto11.Context
	slot    uint
	handles handles
	copies  *copies
	sealing sealingKey
	canary  canaryKey

	// Where the module has an instance for each binding, calls are made one after
	// the other: p11-kit's client, which is of that kind, waits for ever if its
	// server is killed while two are under way (0.24.1, rpc_socket_read), and its
	// server does them one after the other anyway.
	oneAtATime bool
	turn       sync.Mutex // held during a call, then

	workers sync.WaitGroup
	lost    chan struct{}
	lose1   sync.Once
	why     error // set before lost is closed
}

// connect logs in, learns what is in the token and starts the workers. Only the
// first connection of a process may provision: a token that comes back without
// its keys is not the token it was.
func (t *Token) connect(provision bool) (*connection, error) {
	c, err := t.login()
	if err != nil {
		return nil, err
	}
	if err := c.start(provision); err != nil {
		t.current.Store(nil)
		c.lose(err)
		c.workers.Wait()
		c.close()
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	return c, nil
}

// login opens the module and logs in, once.
func (t *Token) login() (*connection, error) {
	c11, err := t.openModule()
	if err != nil {
		return nil, fmt.Errorf("%w: opening %s for the token with %s: %w", hsm.ErrUnavailable, t.cfg.Module, t.cfg.name(), err)
	}
	c := &connection{token: t, c11: c11, lost: make(chan struct{}), handles: handles{byID: make(map[keyID]*object)}}
	c.copies = newCopies(c)
	if err := c.login(); err != nil {
		c.close()
		if isCode(err, pinErrors...) {
			err = fmt.Errorf("%w: %w", ErrPIN, err)
		}
		if !errors.Is(err, ErrPIN) {
			err = fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		}
		return nil, err
	}
	return c, nil
}

// openModule has crypto11 initialize the module. It does not log in: what the token
// says of its PIN has to be heard first.
func (t *Token) openModule() (*crypto11.Context, error) {
	cfg := crypto11.Config{
		Path:              t.cfg.Module,
		TokenLabel:        t.cfg.Label,
		TokenSerial:       t.cfg.Serial,
		LoginNotSupported: true,
		MaxSessions:       2, // one that it keeps, and one to make a key with
	}
	c11, err := crypto11.Configure(&cfg)
	if isCode(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		// A C_Finalize of before failed; no call is in flight between connections.
		_ = t.p11.Finalize() // what C_Initialize says next is what counts
		c11, err = crypto11.Configure(&cfg)
	}
	return c11, err
}

// login finds the token and logs in, unless a wrong PIN could lock it. A login is
// one of all sessions that the module has with the token.
func (c *connection) login() error {
	t := c.token
	switch err := t.p11.Initialize(); {
	case err == nil:
		c.oneAtATime = true // it was not crypto11's to initialize
	case !isCode(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED):
		return fmt.Errorf("initializing %s: %w", t.cfg.Module, err)
	}
	slot, info, err := t.cfg.findToken(t.p11)
	if err != nil {
		return err
	}
	if err := t.cfg.mayLogin(info); err != nil {
		return err
	}
	if err := t.cfg.BeforeLogin(); err != nil {
		return fmt.Errorf("preparing the login: %w", err)
	}
	c.slot = slot
	s, err := c.openSession() // and keep it: a token logs out whose last session is closed
	if err != nil {
		return err
	}
	return fromModule("C_Login", t.p11.Login(s.handle, cmp.Or(t.cfg.UserType, pkcs11.CKU_USER), string(t.cfg.PIN)))
}

// pinErrors are the codes by which a token says that it will not have this PIN.
var pinErrors = []pkcs11.Error{pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE,
	pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED}

// mayLogin refuses where a wrong PIN could lock the token.
func (c Config) mayLogin(info pkcs11.TokenInfo) error {
	const few = pkcs11.CKF_USER_PIN_COUNT_LOW | pkcs11.CKF_USER_PIN_FINAL_TRY
	switch {
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: the token says that its PIN is locked; its security officer can set a new one", ErrPIN)
	case info.Flags&few != 0 && !c.InsistOnPIN:
		return fmt.Errorf("%w: the token says that few attempts are left, so none was made: make sure of the PIN, then insist", ErrPIN)
	}
	return nil
}

// errNotOurs: the token works but lacks what provisioning puts there.
var errNotOurs = errors.New("the token was not provisioned for kmsgate, or is not the token that it was")

// findToken finds the one token with the label or serial number. The module must
// be initialized.
func (c Config) findToken(p11 *pkcs11.Ctx) (slot uint, info pkcs11.TokenInfo, err error) {
	slots, err := p11.GetSlotList(true)
	if err != nil {
		return 0, info, fmt.Errorf("%w: listing slots: %w", hsm.ErrUnavailable, err)
	}
	found := 0
	for _, s := range slots {
		i, err := p11.GetTokenInfo(s)
		if err == nil && (c.Label != "" && i.Label == c.Label || c.Serial != "" && i.SerialNumber == c.Serial) {
			slot, info = s, i
			found++
		}
	}
	switch found {
	case 0:
		return 0, info, fmt.Errorf("%w: no token has the %s", hsm.ErrUnavailable, c.name())
	case 1:
		return slot, info, nil
	}
	return 0, info, fmt.Errorf("%w: %d tokens have the %s", hsm.ErrUnavailable, found, c.name())
}

// name says which token is meant.
func (c Config) name() string {
	if c.Serial != "" {
		return fmt.Sprintf("serial number %q", c.Serial)
	}
	return fmt.Sprintf("label %q", c.Label)
}

// start fills the connection and starts its workers. It is on the connect path:
// nothing else runs yet.
func (c *connection) start(provision bool) error {
	first, err := c.openSession()
	if err != nil {
		return err
	}
	defer first.close()
	if err := c.handles.scan(first); err != nil {
		return err
	}
	// The sealing key says whose token it is, so it is first.
	if err := c.findSealingKey(first, provision); err != nil {
		return err
	}
	if err := c.findCanary(first, provision); err != nil {
		return err
	}
	if err := c.copies.start(first); err != nil {
		return err
	}
	c.token.current.Store(c) // before anybody gets a signature of it
	for range c.token.cfg.Sessions {
		if err := c.startWorker(c.token.jobs); err != nil {
			return err
		}
	}
	return errors.Join(c.startWorker(c.token.changes), c.startWorker(c.token.slowChanges))
}

// lose marks the connection as lost; the first reason stays.
func (c *connection) lose(why error) {
	c.lose1.Do(func() {
		c.why = why
		close(c.lost)
	})
}

// reason is why the connection was lost. It may be asked once lost is closed.
func (c *connection) reason() error { return c.why }

// close finalizes the module. No call may be in flight.
func (c *connection) close() {
	// crypto11 closes its sessions and calls C_Finalize, which ends the
	// workers' sessions too. Its Close never gives an error.
	_ = c.c11.Close()
	// An error says that this was the end of our binding's use, too.
	_ = c.token.p11.Finalize()
}

func (c *connection) startWorker(q queue) error {
	s, err := c.openSession()
	if err != nil {
		return err
	}
	c.workers.Go(func() { c.work(s, q) })
	return nil
}

// work does jobs until the connection is lost. It owns s.
func (c *connection) work(s *session, q queue) {
	for s != nil {
		j := q.next(c.lost)
		if j == nil {
			return
		}
		c.during("a worker's call", func() { s = c.handle(s, j, q) })
	}
}

// during does f, which calls into the module.
func (c *connection) during(what string, f func()) {
	if c.oneAtATime {
		c.turn.Lock()
		defer c.turn.Unlock()
	}
	c.token.calls.during(what, f)
}

// maxRefusals is how often a job is begun on a token that is well.
const maxRefusals = 2

// handle does one job and returns the session to go on with, or nil if the
// connection is lost.
func (c *connection) handle(s *session, j *job, q queue) *session {
	for refusals := 1; ; refusals++ {
		if err := j.ctx.Err(); err != nil {
			j.done <- waitError(err)
			return s
		}
		err := j.do(s)
		if !isFromModule(err) {
			j.done <- err
			return s
		}
		// The session may have an operation half done in it, which the next
		// job would trip over; and the error may be the session's own.
		s.close()
		renewed, lostErr := c.openSession()
		if lostErr == nil {
			s = renewed
			lostErr = cmp.Or(s.canary(), c.givenUp())
		}
		if lostErr != nil {
			why := fmt.Errorf("%w, and then %w", err, lostErr)
			c.lose(why)
			q.handBack(j, why)
			return nil
		}
		if refusals == maxRefusals {
			j.done <- fmt.Errorf("%w: the token is well but refuses: %w", errRefused, err)
			return s
		}
	}
}

// givenUp gives why the connection is lost, if it is.
func (c *connection) givenUp() error {
	select {
	case <-c.lost:
		return c.reason()
	default:
		return nil
	}
}

// errRefused: the token works but did not do this job, twice.
var errRefused = errors.New("the token refused the operation")

// otherSessions are those beside Config.Sessions: two hold the login, two are
// for changes, one is the keeper's, and one is open while connecting.
const otherSessions = 6

// A session is a PKCS#11 session. It belongs to one goroutine.
type session struct {
	*connection
	p11    *pkcs11.Ctx
	handle pkcs11.SessionHandle
}

func (c *connection) openSession() (*session, error) {
	h, err := c.token.p11.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if isCode(err, pkcs11.CKR_SESSION_COUNT) {
		return nil, fromModule(fmt.Sprintf("opening a session (%d are needed: give fewer to signing, in token.sessions)", c.token.cfg.Sessions+otherSessions), err)
	}
	if err != nil {
		return nil, fromModule("opening a session", err)
	}
	return &session{connection: c, p11: c.token.p11, handle: h}, nil
}

// close gives the session back. That it is already gone is no news.
func (s *session) close() { _ = s.p11.CloseSession(s.handle) }

// confirm asks for a canary signature before a search that found less than it
// should is believed: SoftHSM without its files finds no objects, and calls that
// a success (measured).
func (s *session) confirm() error { return s.canary() }

// find lists the token objects that match the template; session objects are
// left out. That it finds nothing means something only after confirm.
func (s *session) find(template ...*pkcs11.Attribute) (found []pkcs11.ObjectHandle, err error) {
	template = append(template, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))
	if err := s.p11.FindObjectsInit(s.handle, template); err != nil {
		return nil, fromModule("searching", err)
	}
	for {
		page, _, err := s.p11.FindObjects(s.handle, 1000)
		if err != nil {
			return nil, errors.Join(fromModule("searching", err), s.p11.FindObjectsFinal(s.handle))
		}
		found = append(found, page...)
		if len(page) == 0 {
			return found, fromModule("searching", s.p11.FindObjectsFinal(s.handle))
		}
	}
}

// attribute reads one attribute of an object.
func (s *session) attribute(o pkcs11.ObjectHandle, typ uint) ([]byte, error) {
	a, err := s.p11.GetAttributeValue(s.handle, o, []*pkcs11.Attribute{pkcs11.NewAttribute(typ, nil)})
	if err != nil {
		return nil, fromModule(fmt.Sprintf("reading attribute %#x", typ), err)
	}
	return a[0].Value, nil
}
