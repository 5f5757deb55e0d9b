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

// InspectToken calls inspect with the token that t names, which need not belong to an
// appliance. It leaves nothing in the token.
func InspectToken(t config.Token, logger *slog.Logger, inspect func(hsm.Inspector) error) error {
	pin, err := (&config.Config{Token: t}).PIN()
	if err != nil {
		return fmt.Errorf("reading the token's PIN: %w", err)
	}
	if err := pointSoftHSM(t); err != nil {
		return err
	}
	return token.Inspect(token.Config{
		Module: t.Module, Label: t.Label, Serial: t.Serial, PIN: pin, UserType: t.UserTypeNumber(), Logger: logger,
	}, inspect)
}

// tokenSettings are the parts of an appliance that opening its token needs.
type tokenSettings struct {
	config      *config.Config
	insistOnPIN bool
	logger      *slog.Logger
}

// open opens the token and the backend for keys in it. With provision it creates whatever is
// missing.
func (t tokenSettings) open(provision bool) (hsm.Backend, *token.Token, error) {
	cfg, err := t.tokenConfig(provision)
	if err != nil {
		return nil, nil, err
	}
	// The connection can be lost before there is a backend whose keys to drop.
	var software atomic.Pointer[sealed.Backend]
	cfg.OnLoss = func() {
		if s := software.Load(); s != nil {
			s.DropAll()
		}
	}
	cfg.OnHang = func(err error) {
		t.logger.Error("exiting: the supervisor must restart the gateway", "err", err)
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
	cfg := token.Config{
		Module: c.Module, Label: c.Label, Serial: c.Serial, UserType: c.UserTypeNumber(),
		Sessions: c.Sessions, NoSessionCopies: c.SessionCopies == "off",
		Provision: provision, InsistOnPIN: t.insistOnPIN, Logger: t.logger,
	}
	if c.SoftHSM == "" {
		return cfg, t.adopt(&cfg)
	}
	if _, err := os.Stat(c.SoftHSM); !provision && errors.Is(err, os.ErrNotExist) {
		return cfg, fmt.Errorf("the token's directory %q %w", c.SoftHSM, errNoTokenDir)
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

// name describes the token that the configuration names.
func (t tokenSettings) name() string {
	switch c := t.config.Token; {
	case c.SoftHSM != "":
		return fmt.Sprintf("the token in %q", c.SoftHSM)
	case c.Serial != "":
		return fmt.Sprintf("the token with serial number %q of module %q", c.Serial, c.Module)
	default:
		return fmt.Sprintf("the token with label %q of module %q", c.Label, c.Module)
	}
}

// explain adds advice to an error of connecting to the token.
func (t tokenSettings) explain(err error) error {
	if errors.Is(err, token.ErrPIN) {
		return fmt.Errorf("%w (check the PIN in %s; if it is right and few attempts are left, start once with "+
			"--insist-on-pin)",
			err, t.pinSource())
	}
	return t.explainFiles(err)
}

// pinSource describes where the PIN comes from.
func (t tokenSettings) pinSource() string {
	switch c := t.config.Token; {
	case c.SoftHSM != "":
		return fmt.Sprintf("the directory %q", c.SoftHSM)
	case c.PINEnv != "":
		return fmt.Sprintf("the environment variable %q", c.PINEnv)
	default:
		return fmt.Sprintf("the file %q", c.PINFile)
	}
}
