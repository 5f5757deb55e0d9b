package appliance

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/sealed"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/softhsm"
)

// LookAtToken calls look with the token that a configuration names, which need not be
// an appliance's. Nothing is left in the token.
func LookAtToken(t config.Token, logger *slog.Logger, look func(hsm.Inspector) error) error {
	pin, err := (&config.Config{Token: t}).PIN()
	if err != nil {
		return fmt.Errorf("the token's PIN: %w", err)
	}
	if err := pointSoftHSM(t); err != nil {
		return err
	}
	return token.Look(token.Config{
		Module: t.Module, Label: t.Label, Serial: t.Serial, PIN: pin, UserType: t.UserTypeNumber(), Logger: logger,
	}, look)
}

// openToken opens the token and what makes and uses keys in it. With provision it makes
// what is missing.
func (a *Appliance) openToken(provision bool) (hsm.Backend, *token.Token, error) {
	cfg, err := a.tokenConfig(provision)
	if err != nil {
		return nil, nil, err
	}
	// The token can be lost before there is anything to drop.
	var software atomic.Pointer[sealed.Backend]
	cfg.OnLoss = func() {
		if s := software.Load(); s != nil {
			s.DropAll()
		}
	}
	cfg.OnHang = func(err error) {
		a.options.Logger.Error("exiting to be restarted", "reason", err)
		os.Exit(1)
	}
	tok, err := token.Open(cfg)
	if err != nil {
		return nil, nil, a.explainToken(err)
	}
	software.Store(sealed.New(tok))
	return hsm.Route{Token: tok, Sealed: software.Load(), Logger: a.options.Logger}, tok, nil
}

func (a *Appliance) tokenConfig(provision bool) (token.Config, error) {
	t := a.Config.Token
	cfg := token.Config{Module: t.Module, Label: t.Label, Serial: t.Serial, UserType: t.UserTypeNumber(), Sessions: t.Sessions,
		Provision: provision, InsistOnPIN: a.options.InsistOnPIN, Logger: a.options.Logger}
	if t.SoftHSM == "" {
		return cfg, a.adopt(&cfg)
	}
	if _, err := os.Stat(t.SoftHSM); !provision && errors.Is(err, os.ErrNotExist) {
		return cfg, fmt.Errorf("the token's directory %s %w", t.SoftHSM, errNoTokenDir)
	}
	soft, err := softhsm.Open(t.SoftHSM, func(module, label, officerPIN, userPIN string) error {
		return token.Init(module, label, token.PIN(officerPIN), token.PIN(userPIN))
	})
	if err != nil {
		return cfg, err
	}
	cfg.Module, cfg.Label, cfg.PIN = soft.Module, softhsm.Label, token.PIN(soft.PIN())
	cfg.BeforeLogin, cfg.AfterChange = soft.Guard, soft.Flush
	return cfg, nil
}

// tokenName says which token the configuration names.
func (a *Appliance) tokenName() string {
	switch t := a.Config.Token; {
	case t.SoftHSM != "":
		return "the one in " + t.SoftHSM
	case t.Serial != "":
		return fmt.Sprintf("the one with serial number %q of %s", t.Serial, t.Module)
	default:
		return fmt.Sprintf("the one with label %q of %s", t.Label, t.Module)
	}
}

// explainToken adds what to do to an error of connecting to the token.
func (a *Appliance) explainToken(err error) error {
	if errors.Is(err, token.ErrPIN) {
		return fmt.Errorf("%w. The PIN is that of %s; when you are sure of it and few attempts are left, start once with --insist-on-pin", err, a.pinSource())
	}
	return a.explainFiles(err)
}

// pinSource says where the PIN comes from.
func (a *Appliance) pinSource() string {
	switch t := a.Config.Token; {
	case t.SoftHSM != "":
		return t.SoftHSM
	case t.PINEnv != "":
		return "the environment variable " + t.PINEnv
	default:
		return t.PINFile
	}
}
