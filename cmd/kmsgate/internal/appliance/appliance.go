// Package appliance opens and closes one appliance: everything that a configuration
// names. That is its directory with a lock, the database and the token as a pair, the
// CA, the audit log with its key, and the gateway on top of them.
//
// An appliance belongs to one process at a time. [Open] refuses a database and a token
// that do not belong together, and creates nothing unless Options.Provision is set. Then
// it creates what is missing, but refuses the leftovers of an appliance whose database is
// gone.
package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/store"
)

// An Appliance is open. Close it.
type Appliance struct {
	Config *config.Config
	Store  *store.Store
	Server *gateway.Server // nil if OpenStaged opened it

	options  Options
	settings tokenSettings
	keys     hsm.Backend
	token    *token.Token
	ca       *ca.Authority  // nil if the operator has a certificate of their own
	closers  []func() error // in the order of opening
}

// Options say how an appliance is opened. The zero value is good for one that
// exists.
type Options struct {
	Provision       bool // make what is missing
	NewCA           bool // make a CA for an appliance that has lost its own
	AcceptAuditLoss bool // go on without audit lines that are gone
	InsistOnPIN     bool // use the PIN although few attempts are left

	// EchoStringToSign has the gateway tell a client with a wrong signature what it
	// should have signed. It is for development.
	EchoStringToSign bool

	// Locked, if not nil, is called as soon as this process has the lock, before
	// anything is opened.
	Locked func() error

	// Archiver, if not nil, returns what makes backups of the appliance. Without it
	// CreateBackup is refused.
	Archiver func(*Appliance) gateway.Archiver

	Logger *slog.Logger // nil means slog.Default()
}

// ErrNotInitialized means that the configuration's appliance was never made.
var ErrNotInitialized = errors.New("there is no instance yet: `kmsgate init` makes it")

// Open opens an appliance for this process alone.
func Open(ctx context.Context, c *config.Config, o Options) (_ *Appliance, err error) {
	a := create(c, o)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	unlock, err := LockDirectory(c.Directory)
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, unlock)
	if o.Locked != nil {
		if err := o.Locked(); err != nil {
			return nil, err
		}
	}
	if err := a.openPair(ctx); err != nil {
		return nil, err
	}
	if err := a.openCA(); err != nil {
		return nil, err
	}
	log, err := a.openAudit(nil)
	if err != nil {
		return nil, err
	}
	a.OnClose("the audit log", log.Close)
	if a.Server, err = gateway.New(ctx, a.gatewayConfig(log)); err != nil {
		return nil, err
	}
	return a, nil
}

// OpenStaged opens an appliance that was extracted from a backup and does not serve yet:
// without a lock, its audit log or a gateway.
func OpenStaged(ctx context.Context, c *config.Config, o Options) (*Appliance, error) {
	a := create(c, o)
	err := a.openCA()
	if err == nil {
		err = a.openPair(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func create(c *config.Config, o Options) *Appliance {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Appliance{Config: c, options: o, settings: tokenSettings{c, o.InsistOnPIN, o.Logger}}
}

// OnClose has Close call f, before it closes anything that is open already. what names
// the thing in an error.
func (a *Appliance) OnClose(what string, f func() error) {
	a.closers = append(a.closers, func() error {
		if err := f(); err != nil {
			return fmt.Errorf("closing %s: %w", what, err)
		}
		return nil
	})
}

// Close writes what the gateway has not written yet, and closes everything in the
// opposite order of opening.
func (a *Appliance) Close() (err error) {
	if a.Server != nil {
		a.Server.Flush()
		a.Server = nil
	}
	for _, f := range slices.Backward(a.closers) {
		err = errors.Join(err, f())
	}
	a.closers = nil
	return err
}

// VerifyAll has every key version sign, and unseals every access key and client key. See
// [keypair.VerifyAll].
func (a *Appliance) VerifyAll(ctx context.Context) (keypair.Verified, error) {
	return keypair.VerifyAll(ctx, a.Store, a.keys, a.token)
}

// identity returns which KMS instance the configuration is of.
func (a *Appliance) identity() store.Instance {
	i := a.Config.Instance
	return store.Instance{InstanceId: i.ID, RegionId: i.Region, AccountId: i.Account}
}
