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

// tokenSettings are what opening a token takes of an appliance.
type tokenSettings struct {
	config      *config.Config
	insistOnPIN bool
	logger      *slog.Logger
}

// open opens the token and what makes and uses keys in it. With provision it makes
// what is missing.
func (t tokenSettings) open(provision bool) (hsm.Backend, *token.Token, error) {
	cfg, err := t.tokenConfig(provision)
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
		t.logger.Error("exiting to be restarted", "reason", err)
		os.Exit(1)
	}
	tok, err := token.Open(cfg)
	if err != nil {
		return nil, nil, t.explain(err)
	}
	software.Store(sealed.New(tok))
	return hsm.Route{Token: tok, Sealed: software.Load(), Logger: t.logger}, tok, nil
}

func (t tokenSettings) tokenConfig(provision bool) (token.Config, error) {
	c := t.config.Token
	cfg := token.Config{Module: c.Module, Label: c.Label, Serial: c.Serial, UserType: c.UserTypeNumber(), Sessions: c.Sessions, NoSessionCopies: c.SessionCopies == "off",
		Provision: provision, InsistOnPIN: t.insistOnPIN, Logger: t.logger}
	if c.SoftHSM == "" {
		return cfg, t.adopt(&cfg)
	}
	if _, err := os.Stat(c.SoftHSM); !provision && errors.Is(err, os.ErrNotExist) {
		return cfg, fmt.Errorf("the token's directory %s %w", c.SoftHSM, errNoTokenDir)
	}
	soft, err := softhsm.Open(c.SoftHSM, func(module, label, officerPIN, userPIN string) error {
		return token.Init(module, label, token.PIN(officerPIN), token.PIN(userPIN))
	})
	if err != nil {
		return cfg, err
	}
	cfg.Module, cfg.Label, cfg.PIN = soft.Module, softhsm.Label, token.PIN(soft.PIN())
	cfg.BeforeLogin, cfg.AfterChange = soft.Guard, soft.Flush
	return cfg, nil
}

// name says which token the configuration names.
func (t tokenSettings) name() string {
	switch c := t.config.Token; {
	case c.SoftHSM != "":
		return "the one in " + c.SoftHSM
	case c.Serial != "":
		return fmt.Sprintf("the one with serial number %q of %s", c.Serial, c.Module)
	default:
		return fmt.Sprintf("the one with label %q of %s", c.Label, c.Module)
	}
}

// explain adds what to do to an error of connecting to the token.
func (t tokenSettings) explain(err error) error {
	if errors.Is(err, token.ErrPIN) {
		return fmt.Errorf("%w. The PIN is that of %s; when you are sure of it and few attempts are left, start once with --insist-on-pin", err, t.pinSource())
	}
	return t.explainFiles(err)
}

// pinSource says where the PIN comes from.
func (t tokenSettings) pinSource() string {
	switch c := t.config.Token; {
	case c.SoftHSM != "":
		return c.SoftHSM
	case c.PINEnv != "":
		return "the environment variable " + c.PINEnv
	default:
		return c.PINFile
	}
}
