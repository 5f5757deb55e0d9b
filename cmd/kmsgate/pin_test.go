package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/miekg/pkcs11"

	"github.com/kmsgate/kmsgate/softhsm"
)

// setPIN is the program setpin LABEL OLD NEW of the scripts. It changes the user PIN of a SoftHSM
// token, as pkcs11-tool --change-pin does.
func setPIN() {
	if err := changePIN(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "setpin:", err)
		os.Exit(1)
	}
}

func changePIN(label, before, after string) (err error) {
	module, err := softhsm.Module()
	if err != nil {
		return err
	}
	p11 := pkcs11.New(module)
	if err := p11.Initialize(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p11.Finalize()) }()
	slots, err := p11.GetSlotList(true)
	if err != nil {
		return err
	}
	for _, slot := range slots {
		info, err := p11.GetTokenInfo(slot)
		if err != nil || info.Label != label {
			continue
		}
		s, err := p11.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return err
		}
		return p11.SetPIN(s, before, after)
	}
	return fmt.Errorf("no token has the label %q", label)
}
