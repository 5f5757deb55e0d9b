package token

import (
	"fmt"

	"github.com/miekg/pkcs11"
)

// Init initializes an empty token in a free slot of the module and sets its
// user PIN. The PINs are handed to the module in memory and are on no command
// line. No Token may be open in this process. It fails if a token with the
// label exists, and never touches an initialized token.
func Init(module, label string, officerPIN, userPIN PIN) error {
	p11 := pkcs11.New(module)
	if p11 == nil {
		return fmt.Errorf("%s cannot be loaded as a PKCS#11 module", module)
	}
	if err := p11.Initialize(); err != nil {
		return fmt.Errorf("initializing %s: %w", module, err)
	}
	defer p11.Finalize()
	slot, err := freeSlot(p11, label)
	if err != nil {
		return err
	}
	if err := p11.InitToken(slot, string(officerPIN), label); err != nil {
		return fmt.Errorf("initializing a token: %w", err)
	}
	// The slot's number may change when its token is initialized.
	if slot, _, err = (Config{Label: label}).findToken(p11); err != nil {
		return fmt.Errorf("finding the new token: %w", err)
	}
	s, err := p11.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return fmt.Errorf("opening a session with the new token: %w", err)
	}
	if err := p11.Login(s, pkcs11.CKU_SO, string(officerPIN)); err != nil {
		return fmt.Errorf("logging in as the new token's security officer: %w", err)
	}
	if err := p11.InitPIN(s, string(userPIN)); err != nil {
		return fmt.Errorf("setting the new token's user PIN: %w", err)
	}
	return nil
}

func freeSlot(p11 *pkcs11.Ctx, label string) (uint, error) {
	slots, err := p11.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("listing slots: %w", err)
	}
	free, found := uint(0), false
	for _, slot := range slots {
		info, err := p11.GetTokenInfo(slot)
		if err != nil {
			return 0, fmt.Errorf("reading slot %d: %w", slot, err)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			free, found = slot, true
		} else if info.Label == label {
			return 0, fmt.Errorf("a token labelled %q exists already", label)
		}
	}
	if !found {
		return 0, fmt.Errorf("the module has no slot with an uninitialized token")
	}
	return free, nil
}
