package token

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/hsm/token/internal/p11"
)

// Init initializes a token in a free slot of the module and sets its user PIN. It passes the
// PINs to the module in memory, not on a command line. No Token may be open in this process.
// Init fails if a token with the label exists. It never touches an initialized token.
func Init(module, label string, officerPIN, userPIN PIN) error {
	m, err := p11.Load(module)
	if err != nil {
		return err
	}
	if repeated, err := m.Initialize(); err != nil || repeated {
		return fmt.Errorf("initializing PKCS#11 module %q: %w", module, cmp.Or(err, errInUse))
	}
	defer m.Finalize(nil)
	slot, err := freeSlot(m, label)
	if err != nil {
		return err
	}
	if err := m.InitToken(slot, string(officerPIN), label); err != nil {
		return fmt.Errorf("initializing token %q: %w", label, err)
	}
	// Initializing a token may change the number of its slot.
	if slot, _, err = (Config{Label: label}).findToken(m); err != nil {
		return fmt.Errorf("finding the new token: %w", err)
	}
	s, err := m.Open(slot)
	if err != nil {
		return fmt.Errorf("opening a session with the new token: %w", err)
	}
	if err := s.Login(pkcs11.CKU_SO, string(officerPIN)); err != nil {
		return fmt.Errorf("logging in as the new token's security officer: %w", err)
	}
	if err := s.InitPIN(string(userPIN)); err != nil {
		return fmt.Errorf("setting the new token's user PIN: %w", err)
	}
	return nil
}

var errInUse = errors.New("this process already uses it")

func freeSlot(m *p11.Module, label string) (uint, error) {
	slots, err := m.Slots()
	if err != nil {
		return 0, fmt.Errorf("listing slots: %w", err)
	}
	free, found := uint(0), false
	for _, slot := range slots {
		info, err := m.TokenInfo(slot)
		if err != nil {
			return 0, fmt.Errorf("reading the token in slot %d: %w", slot, err)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			free, found = slot, true
		} else if info.Label == label {
			return 0, fmt.Errorf("a token labelled %q already exists", label)
		}
	}
	if !found {
		return 0, fmt.Errorf("the module has no slot with an uninitialized token")
	}
	return free, nil
}
