// Package hardware opens the PKCS#11 token that a configuration names, and appliances with one.
package hardware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/logsink"
	"github.com/kmsgate/kmsgate/internal/ownership"
	"github.com/kmsgate/kmsgate/softhsm"
)

// InspectToken calls inspect with the token that t names, which need not belong to an
// appliance. It leaves nothing in the token. It makes one attempt with the PIN, which it does not
// remember if the token refuses it. With insistOnPIN it does so even if one more wrong PIN locks
// the token.
func InspectToken(t config.Token, insistOnPIN bool, logger *slog.Logger, inspect func(hsm.Inspector) error) error {
	pin, err := (&config.Config{Token: t}).PIN()
	if err != nil {
		return fmt.Errorf("reading the token's PIN: %w", err)
	}
	if err := errors.Join(CheckModule(t.Module), pointSoftHSM(t)); err != nil {
		return err
	}
	return explainPIN(t, token.Inspect(token.Config{
		Module: t.Module, Label: t.Label, Serial: t.Serial, PIN: pin, UserType: t.UserTypeNumber(),
		InsistOnPIN: insistOnPIN, Logger: logger,
	}, inspect))
}

// CheckModule refuses a PKCS#11 module that another user can change or replace: a module is code,
// which loading runs. It does not refuse a missing file, because loading that says more.
func CheckModule(path string) error {
	err := ownership.CheckFile(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("refusing the PKCS#11 module: %w", err)
}

// Open opens an appliance with its PKCS#11 token. See [appliance.Open].
func Open(ctx context.Context, c *config.Config, o appliance.Options) (*appliance.Appliance, error) {
	return appliance.Open(ctx, c, Options(o))
}

// OpenStaged is [appliance.OpenStaged] of an appliance with a PKCS#11 token.
func OpenStaged(ctx context.Context, c *config.Config, o appliance.Options) (*appliance.Appliance, error) {
	return appliance.OpenStaged(ctx, c, Options(o))
}

// OpenRecords is [appliance.OpenRecords] of an appliance with a PKCS#11 token.
func OpenRecords(ctx context.Context, c *config.Config, o appliance.Options) (*appliance.Appliance, error) {
	return appliance.OpenRecords(ctx, c, Options(o))
}

// Options returns options of an appliance with a PKCS#11 token.
func Options(o appliance.Options) appliance.Options {
	o.Device, o.Collectors = Device, collectors
	return o
}

// Device returns the PKCS#11 token that a configuration names.
func Device(c *config.Config, o appliance.Options) hsm.Device {
	return device{c, o.InsistOnPIN, o.Logger, o.LogSink}
}

// A device is a PKCS#11 token.
type device struct {
	config      *config.Config
	insistOnPIN bool
	logger      *slog.Logger
	sink        *logsink.Sink // behind logger, or nil
}

// A noDirError is the directory of a SoftHSM token that does not exist.
type noDirError string

func (e noDirError) Error() string {
	return fmt.Sprintf("the token's directory %q does not exist", string(e))
}

// Is reports whether target is hsm.ErrNotOurs, which a noDirError matches.
func (e noDirError) Is(target error) bool { return target == hsm.ErrNotOurs }

// Open implements hsm.Device.
func (t device) Open(provision bool, onLoss func()) (hsm.Token, error) {
	cfg, err := t.tokenConfig(provision)
	if err != nil {
		return nil, err
	}
	cfg.OnLoss = onLoss
	cfg.OnHang = func(err error) {
		t.logger.Error("exiting: the supervisor must restart the gateway", "err", err)
		t.sink.Close(logsink.FlushTime)
		os.Exit(1)
	}
	tok, err := token.Open(cfg)
	if err != nil {
		return nil, t.explain(err)
	}
	return tok, nil
}

// Inspect implements hsm.Device.
func (t device) Inspect(inspect func(hsm.Inspector) error) error {
	if dir := t.config.Token.SoftHSM; dir != "" {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil // the token is created with the instance
		}
	}
	cfg, err := t.tokenConfig(false)
	if err != nil {
		return err
	}
	if err := token.Inspect(cfg, inspect); err != nil {
		return t.explain(err)
	}
	return nil
}

func (t device) tokenConfig(provision bool) (token.Config, error) {
	c := t.config.Token
	cfg := token.Config{
		Module: c.Module, Label: c.Label, Serial: c.Serial, UserType: c.UserTypeNumber(),
		Sessions: c.Sessions, GenerateAfter: c.GenerationTimeout, NoSessionCopies: c.SessionCopies == "off",
		Provision: provision, InsistOnPIN: t.insistOnPIN, Logger: t.logger,
	}
	if c.SoftHSM == "" {
		if err := CheckModule(c.Module); err != nil {
			return cfg, err
		}
		return cfg, t.adopt(&cfg)
	}
	if _, err := os.Stat(c.SoftHSM); !provision && errors.Is(err, os.ErrNotExist) {
		return cfg, noDirError(c.SoftHSM)
	}
	// An error of Module is that of Open, too.
	if module, err := softhsm.Module(); err == nil {
		if err := CheckModule(module); err != nil {
			return cfg, err
		}
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

// String implements hsm.Device.
func (t device) String() string {
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
func (t device) explain(err error) error {
	if errors.Is(err, hsm.ErrPIN) {
		return explainPIN(t.config.Token, err)
	}
	return t.explainFiles(err)
}

// explainPIN adds advice to hsm.ErrPIN. It returns other errors unchanged.
func explainPIN(t config.Token, err error) error {
	if !errors.Is(err, hsm.ErrPIN) {
		return err
	}
	source := fmt.Sprintf("the file %q", t.PINFile)
	switch {
	case t.SoftHSM != "":
		source = fmt.Sprintf("the directory %q", t.SoftHSM)
	case t.PINEnv != "":
		source = fmt.Sprintf("the environment variable %q", t.PINEnv)
	}
	return fmt.Errorf("%w (check the PIN in %s; if it is right, give --insist-on-pin once)", err, source)
}
