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

// connect logs in, reads the token's keys and starts the workers. Only the first connection
// of a process may provision: a token that returns without its keys is not the same token.
func (t *Token) connect(provision bool) (*connection, error) {
	c, err := t.login()
	if err != nil {
		return nil, err
	}
	if err := p11.Protect(func() error { return c.start(provision) }); err != nil {
		t.current.Store(nil)
		c.lose(err)
		c.workers.Wait()
		c.close()
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	return c, nil
}

// login opens the module and logs in. It does not retry.
func (t *Token) login() (*connection, error) {
	defer p11.KeepStandardInput()
	c11, err := t.openModule()
	if err != nil {
		return nil, fmt.Errorf("%w: opening PKCS#11 module %q: %w", hsm.ErrUnavailable, t.cfg.Module, err)
	}
	c := &connection{
		token: t, c11: c11, lost: make(chan struct{}),
		handles: newHandles(labelKey), audit: newHandles(labelAudit), copies: noCopies{},
	}
	if err := p11.Protect(c.login); err != nil {
		c.close()
		if !errors.Is(err, hsm.ErrPIN) {
			err = fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		}
		return nil, err
	}
	return c, nil
}

// openModule has crypto11 initialize the module. crypto11 does not log in, because the PIN's
// state must be checked first. It fails if the token of any other slot does not answer, or if
// an earlier C_Finalize failed. If findAlone still finds the token, openModule returns nil
// without an error, and the connection works without crypto11.
func (t *Token) openModule() (c11 *crypto11.Context, err error) {
	err = t.module.Call("C_Initialize by crypto11", func() error {
		c11, err = crypto11.Configure(&crypto11.Config{
			Path:              t.cfg.Module,
			TokenLabel:        t.cfg.Label,
			TokenSerial:       t.cfg.Serial,
			LoginNotSupported: true,
			MaxSessions:       2, // one that it keeps, and one to make a key
		})
		return err
	})
	if err == nil {
		return c11, nil
	}
	t.log.Debug("crypto11 cannot open the module", "err", err)
	return nil, findAlone(t)
}

// findAlone finds the token without crypto11. It initializes the module for that and
// finalizes it again.
func findAlone(t *Token) error {
	if _, err := t.module.Initialize(); err != nil {
		return fmt.Errorf("initializing the module: %w", err)
	}
	defer t.finalize(nil)
	_, _, err := t.cfg.findToken(t.module)
	return err
}

// login finds the token and logs in, if pins allows an attempt. A login applies to all sessions
// that the process has with the token.
func (c *connection) login() error {
	t := c.token
	repeated, err := t.module.Initialize()
	if err != nil {
		return fmt.Errorf("initializing the module: %w", err)
	}
	// If crypto11 has opened the module and it is still uninitialized here, the module has a
	// separate instance for each binding.
	t.module.SetOneAtATime(c.c11 != nil && !repeated)
	slot, info, err := t.cfg.findToken(t.module)
	if err != nil {
		return err
	}
	pin, err := t.pins.choose(info)
	if err != nil {
		return err
	}
	if err := t.module.Call("Config.BeforeLogin", t.cfg.BeforeLogin); err != nil {
		return fmt.Errorf("preparing the login: %w", err)
	}
	c.slot, c.noRandom = slot, info.Flags&pkcs11.CKF_RNG == 0
	s, err := c.openSession() // stays open, since closing the last session logs out
	if err != nil {
		return err
	}
	return t.pins.judge(s.p11.Login(cmp.Or(t.cfg.UserType, pkcs11.CKU_USER), string(pin)))
}

// A noTokenError is the label or serial number that no token has.
type noTokenError string

func (e noTokenError) Error() string { return "no token has the " + string(e) }

// Is reports whether target is hsm.ErrNotOurs, which a noTokenError matches.
func (e noTokenError) Is(target error) bool { return target == hsm.ErrNotOurs }

// findToken finds the only token with the label or serial number. The module must
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
		return 0, info, fmt.Errorf("%w: %w", hsm.ErrUnavailable, noTokenError(c.tokenName()))
	case 1:
		return slot, info, nil
	}
	return 0, info, fmt.Errorf("%w: %d tokens have the %s (name one by its serial number)", hsm.ErrUnavailable, found, c.tokenName())
}

// tokenName returns the serial number or the label of the configured token, for messages.
func (c Config) tokenName() string {
	if c.Serial != "" {
		return fmt.Sprintf("serial number %q", c.Serial)
	}
	return fmt.Sprintf("label %q", c.Label)
}

// start fills the connection and starts its workers. It opens all sessions of the
// connection before the first worker runs.
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
	for range probers {
		work = append(work, c.worker(c.token.probes, &err))
	}
	if err != nil {
		return err
	}
	c.token.current.Store(c) // before the workers make the first signature
	for _, w := range work {
		c.workers.Go(w)
	}
	return nil
}

// learn reads which keys are in the token. If provision is set, it makes a missing sealing
// key.
func (c *connection) learn(s *session, provision bool) error {
	if err := c.scan(s); err != nil {
		return err
	}
	// The sealing key identifies the token, so it comes before the canary.
	if err := c.findSealingKey(s, provision); err != nil {
		return err
	}
	if err := c.findCanary(s, provision); err != nil {
		return err
	}
	if c.handles.len()+c.audit.len() >= c.token.previousKeys {
		return nil
	}
	// Another application deleted keys, or the token did not find them. Scan again, because
	// the gateway rejects requests for a missing key until the key is found.
	c.handles, c.audit = newHandles(labelKey), newHandles(labelAudit)
	return c.scan(s)
}

// scan fills the tables of keys.
func (c *connection) scan(s *session) error {
	if err := c.handles.scan(s); err != nil {
		return err
	}
	return c.scanAudit(s)
}

// worker opens a session and returns the function that a worker with this session runs. It
// joins an error of opening it to *err.
func (c *connection) worker(q *queue, err *error) func() {
	s, openErr := c.openSession()
	*err = errors.Join(*err, openErr)
	return func() { c.work(s, q) }
}
