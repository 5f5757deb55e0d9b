package token

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// pins decides which PIN is tried, and whether. Tokens count wrong PINs and then lock, so a PIN
// that the token has refused is never tried again before a good login, not even by a later
// process. Only the goroutine that connects uses a pins.
type pins struct {
	log   *slog.Logger
	token string              // names the token in messages
	read  func() (PIN, error) // Config.ReadPIN

	pin    PIN    // the PIN to try
	worked bool   // the last login of this process was with it, to the token with the serial number workedOn
	insist bool   // Config.InsistOnPIN, until the first attempt
	serial string // of the token

	workedOn string
	refused  refusals

	warned bool   // the log has the token's warning about wrong PINs
	reason string // in the log, why the gateway waits
	source string // in the log, why the PIN's source cannot be read
}

func newPINs(c Config) pins {
	return pins{
		log: c.Logger, token: c.tokenName(), read: c.ReadPIN,
		pin: c.PIN, insist: c.InsistOnPIN, refused: loadRefusals(c.RefusedPINFile),
	}
}

// refusalCodes are the return values of C_Login with which a token refuses the PIN. Others say
// nothing about the PIN. CKR_USER_TYPE_INVALID and CKR_USER_PIN_NOT_INITIALIZED, for example, can
// come from a token whose files are missing at the moment, and cost no attempt.
var refusalCodes = []pkcs11.Error{pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE,
	pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED}

// A withheldError is the token's state in which the gateway makes no attempt, whatever the PIN is.
// The state can end without another PIN.
type withheldError string

func (e withheldError) Error() string { return string(e) }

// choose returns the PIN to log in with to a token, or hsm.ErrPIN if no attempt must be made.
//
// The PIN that worked before in this process is used unless the token is locked: it is not a
// guess. Another PIN is used unless the token has refused it or is about to lock.
func (p *pins) choose(info pkcs11.TokenInfo) (PIN, error) {
	p.serial = info.SerialNumber
	if info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0 {
		return "", fmt.Errorf("%w: %w", hsm.ErrPIN, withheldError("the token reports that it is locked, so the gateway "+
			"made no attempt (the security officer can set a new PIN)"))
	}
	if !(p.worked && p.workedOn == p.serial) && !p.insist {
		if err := p.checkGuess(info.Flags); err != nil {
			return "", err
		}
	}
	const wrongPINs = pkcs11.CKF_USER_PIN_COUNT_LOW | pkcs11.CKF_USER_PIN_FINAL_TRY
	if info.Flags&wrongPINs != 0 && !p.warned {
		p.warned = true
		p.log.Warn("somebody has entered a wrong user PIN since the last good login to the token",
			"token", p.token, "flags", flagNames(info.Flags&wrongPINs, tokenFlags))
	}
	return p.pin, nil
}

// checkGuess returns an error if the PIN, which has not worked in this process, must not be tried.
func (p *pins) checkGuess(flags uint) error {
	if flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0 {
		return fmt.Errorf("%w: %w", hsm.ErrPIN, withheldError("the token reports that one more wrong PIN locks it, so the "+
			"gateway made no attempt"))
	}
	known, err := p.refused.find(p.serial, p.pin)
	if err != nil {
		return fmt.Errorf("%w: whether the token has refused this PIN before is unknown, so the gateway made no attempt: %w",
			hsm.ErrPIN, err)
	}
	if known != nil {
		return fmt.Errorf("%w: the token with serial number %q refused this PIN at %s, so the gateway made no further attempt",
			hsm.ErrPIN, p.serial, known.Time.Format(time.RFC3339))
	}
	if err := p.refused.prepare(); err != nil {
		return fmt.Errorf("a refusal of the PIN could not be recorded, so the gateway made no attempt: %w", err)
	}
	return nil
}

// judge takes the result of the attempt with the PIN that choose returned. It returns hsm.ErrPIN
// if the token refused that PIN.
func (p *pins) judge(err error) error {
	switch {
	case err == nil:
		p.worked, p.workedOn, p.insist = true, p.serial, false
		p.warned, p.reason, p.source = false, "", ""
		if err := p.refused.clear(); err != nil {
			p.log.Warn("cannot remove the record of refused PINs after a good login: remove it",
				"file", p.refused.path, "err", err)
		}
		return nil
	case p11.Is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
		return nil // without having checked the PIN
	case !p11.Is(err, refusalCodes...):
		return err
	}
	p.worked, p.insist = false, false
	p.warned, p.reason = true, "" // the wrong PIN was the gateway's
	err = fmt.Errorf("%w: %w", hsm.ErrPIN, err)
	if p11.Is(err, pkcs11.CKR_PIN_LOCKED) {
		p.refused.remember(p.serial, p.pin) // in this process only: it says nothing about the PIN
		return err
	}
	if addErr := p.refused.add(p.serial, p.pin); addErr != nil {
		return fmt.Errorf("%w; this could not be recorded, so do not start the gateway with this PIN again: %w", err, addErr)
	}
	return err
}

const (
	// offerInterval is how often the source of the PIN is read after the token refused one.
	offerInterval = time.Second
	// settleTime is how long the source must stay the same before the PIN in it is tried.
	settleTime = 50 * time.Millisecond
	// stateInterval is how often the gateway checks whether the token has left a state in which the
	// gateway tries no PIN. Checking costs no attempt.
	stateInterval = 5 * time.Second
	// returnInterval is how often the gateway looks whether another token has the label, for which the PIN
	// has not been refused.
	returnInterval = time.Minute
)

// await waits after err, an hsm.ErrPIN of connecting, until there is a reason to connect again, or
// until Close. It makes no attempt. If it must wait for an operator, it fails all jobs, because
// their callers would wait in vain.
func (p *pins) await(t *Token, err error) {
	interval, withheld := offerInterval, errors.As(err, new(withheldError))
	if withheld {
		interval = stateInterval
	} else if p.takeOffer(t.closing) {
		return
	}
	p.report(err, withheld)
	stop := reject(fmt.Errorf("%w: %w", hsm.ErrUnavailable, err), t.jobs, t.changes, t.slowChanges, t.probes)
	defer stop()
	for waited := time.Duration(0); sleep(t.closing, interval); waited += interval {
		if p.takeOffer(t.closing) || withheld || waited >= returnInterval {
			return
		}
	}
}

// report logs why the gateway waits, each reason once.
func (p *pins) report(err error, withheld bool) {
	if err.Error() == p.reason {
		return
	}
	p.reason = err.Error()
	advice := "the token refused the PIN, which is not tried again: set the right PIN and restart the gateway"
	switch {
	case withheld:
		advice = "the gateway tries no PIN while the token is in this state, which it checks every " + stateInterval.String()
	case p.read != nil:
		advice = "the token refused the PIN, which is not tried again: put the right PIN where the configuration names it"
	}
	p.log.Error(advice, "token", p.token, "err", err)
}

// takeOffer makes the PIN in the source the next one to try. It returns false if the token has
// refused that PIN, or if the PIN to try has worked. It does not take a PIN that is being written.
func (p *pins) takeOffer(closing <-chan struct{}) bool {
	if p.worked || p.read == nil {
		return false
	}
	pin, err := p.read()
	var known *refusal
	if err == nil {
		known, err = p.refused.find(p.serial, pin)
	}
	if err != nil && err.Error() != p.source {
		p.source = err.Error()
		p.log.Warn("cannot read the PIN again", "token", p.token, "err", err)
	}
	if err != nil || known != nil || pin == "" || !sleep(closing, settleTime) {
		return false
	}
	if again, err := p.read(); err != nil || again != pin {
		return false
	}
	p.pin = pin
	return true
}

// sleep waits for d. It returns false as soon as closing is closed.
func sleep(closing <-chan struct{}, d time.Duration) bool {
	select {
	case <-closing:
		return false
	case <-time.After(d):
		return true
	}
}

// reject fails the jobs of queues until stop is called. No worker may use the queues until then.
func reject(err error, queues ...*queue) (stop func()) {
	ended := make(chan struct{})
	var rejecting sync.WaitGroup
	for _, q := range queues {
		rejecting.Go(func() {
			for j := q.next(ended); j != nil; j = q.next(ended) {
				j.done <- err
			}
		})
	}
	return func() {
		close(ended)
		rejecting.Wait()
	}
}
