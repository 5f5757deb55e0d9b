package token

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// connect logs in, learns what is in the token and starts the workers. Only the
// first connection of a process may provision: a token that comes back without
// its keys is not the token it was.
func (t *Token) connect(provision bool) (*connection, error) {
	c, err := t.login()
	if err != nil {
		return nil, err
	}
	if err := p11.Safely(func() error { return c.start(provision) }); err != nil {
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
	defer p11.KeepStandardInput()
	c11, err := t.openModule()
	if err != nil {
		return nil, fmt.Errorf("%w: opening %s: %w", hsm.ErrUnavailable, t.cfg.Module, err)
	}
	c := &connection{
		token: t, c11: c11, lost: make(chan struct{}),
		handles: handles{byID: make(map[keyID]*object)}, copies: noCopies{},
	}
	if err := p11.Safely(c.login); err != nil {
		c.close()
		if !errors.Is(err, ErrPIN) {
			err = fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		}
		return nil, err
	}
	return c, nil
}

// openModule has crypto11 initialize the module. It does not log in, because the token
// must first be asked about its PIN. crypto11 fails if any other slot's token does not
// answer, or if a C_Finalize failed before. If our own search finds the token in spite of
// that, openModule returns nil, and the connection does without crypto11.
func (t *Token) openModule() (c11 *crypto11.Context, err error) {
	err = t.module.Call("C_Initialize by crypto11", func() error {
		c11, err = crypto11.Configure(&crypto11.Config{
			Path:              t.cfg.Module,
			TokenLabel:        t.cfg.Label,
			TokenSerial:       t.cfg.Serial,
			LoginNotSupported: true,
			MaxSessions:       2, // one that it keeps, and one to make a key with
		})
		return err
	})
	if err == nil {
		return c11, nil
	}
	t.log.Debug("crypto11 does not open the module", "reason", err)
	return nil, t.findAlone()
}

// findAlone looks for the token in a module that is not in use, and leaves it so.
func (t *Token) findAlone() error {
	if _, err := t.module.Initialize(); err != nil {
		return fmt.Errorf("initializing it: %w", err)
	}
	defer t.finalize(nil)
	_, _, err := t.cfg.findToken(t.module)
	return err
}

// login finds the token and logs in, unless a wrong PIN could lock it. A login is
// one of all sessions that the module has with the token.
func (c *connection) login() error {
	t := c.token
	already, err := t.module.Initialize()
	if err != nil {
		return fmt.Errorf("initializing the module: %w", err)
	}
	t.module.SetOneAtATime(c.c11 != nil && !already) // it has an instance for each binding
	slot, info, err := t.cfg.findToken(t.module)
	if err != nil {
		return err
	}
	if err := t.cfg.mayLogin(info); err != nil {
		return err
	}
	if err := t.module.Call("Config.BeforeLogin", t.cfg.BeforeLogin); err != nil {
		return fmt.Errorf("preparing the login: %w", err)
	}
	c.slot, c.noRandom = slot, info.Flags&pkcs11.CKF_RNG == 0
	s, err := c.openSession() // and keep it: a token logs out whose last session is closed
	if err != nil {
		return err
	}
	err = s.p11.Login(cmp.Or(t.cfg.UserType, pkcs11.CKU_USER), string(t.cfg.PIN))
	if p11.Is(err, pinErrors...) {
		return fmt.Errorf("%w: %w", ErrPIN, err)
	}
	if p11.Is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		return nil
	}
	return err
}

// pinErrors are the codes by which a token says that it will not have this PIN, or
// this user.
var pinErrors = []pkcs11.Error{pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE,
	pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_USER_PIN_NOT_INITIALIZED, pkcs11.CKR_USER_TYPE_INVALID}

// mayLogin refuses where a wrong PIN could lock the token.
func (c Config) mayLogin(info pkcs11.TokenInfo) error {
	const lowCount = pkcs11.CKF_USER_PIN_COUNT_LOW | pkcs11.CKF_USER_PIN_FINAL_TRY
	switch {
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: the token says that its PIN is locked; its security officer can set a new one", ErrPIN)
	case info.Flags&lowCount != 0 && !c.InsistOnPIN:
		return fmt.Errorf("%w: the token says that few attempts are left, so none was made: make sure of the PIN, then insist", ErrPIN)
	}
	return nil
}

// ErrNotOurs: the token lacks what provisioning puts there, or there is none with the
// label or serial number.
var ErrNotOurs = errors.New("the token was not provisioned for kmsgate, or is not the token that it was")

// A noToken is the label or serial number that no token has.
type noToken string

func (n noToken) Error() string { return "no token has the " + string(n) }

// Is makes it an ErrNotOurs.
func (n noToken) Is(target error) bool { return target == ErrNotOurs }

// findToken finds the one token with the label or serial number. The module must
// be initialized.
func (c Config) findToken(m *p11.Module) (slot uint, info pkcs11.TokenInfo, err error) {
	slots, err := m.Slots()
	if err != nil {
		return 0, info, fmt.Errorf("%w: listing slots: %w", hsm.ErrUnavailable, err)
	}
	found := 0
	for _, s := range slots {
		i, err := m.TokenInfo(s)
		if err == nil && (c.Label != "" && i.Label == c.Label || c.Serial != "" && i.SerialNumber == c.Serial) {
			slot, info = s, i
			found++
		}
	}
	switch found {
	case 0:
		return 0, info, fmt.Errorf("%w: %w", hsm.ErrUnavailable, noToken(c.name()))
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

// start fills the connection and starts its workers. Nothing else runs before they
// do, and no session is opened after.
func (c *connection) start(provision bool) error {
	first, err := c.openSession()
	if err != nil {
		return err
	}
	if err := c.learn(first, provision); err != nil {
		return err
	}
	copies, copier, err := startCopies(c, first)
	if err != nil {
		return err
	}
	c.copies = copies
	first.p11.Close()
	var work []func()
	if copier != nil {
		work = append(work, copier)
	}
	for range c.token.cfg.Sessions {
		work = append(work, c.worker(c.token.jobs, &err))
	}
	work = append(work, c.worker(c.token.changes, &err), c.worker(c.token.slowChanges, &err))
	if err != nil {
		return err
	}
	c.token.current.Store(c) // before anybody gets a signature of it
	for _, w := range work {
		c.workers.Go(w)
	}
	return nil
}

// learn finds out what is in the token.
func (c *connection) learn(s *session, provision bool) error {
	if err := c.handles.scan(s); err != nil {
		return err
	}
	// The sealing key says whose token it is, so it is before the canary.
	if err := c.findSealingKey(s, provision); err != nil {
		return err
	}
	if err := c.findCanary(s, provision); err != nil {
		return err
	}
	if c.handles.len() >= c.token.keysBefore {
		return nil
	}
	// Somebody deleted keys, or the token did not find them: it is asked again, for
	// what is missed is refused until it is found.
	c.handles.byID = make(map[keyID]*object)
	return c.handles.scan(s)
}

// worker opens a session and returns what a worker with it does. It adds an error to
// err.
func (c *connection) worker(q *queue, err *error) func() {
	s, openErr := c.openSession()
	*err = errors.Join(*err, openErr)
	return func() { c.work(s, q) }
}
