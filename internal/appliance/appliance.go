// Package appliance opens and closes an appliance: everything that one configuration names.
// An appliance is a locked directory, a database and its token, the CA, the audit log with
// its key, and the gateway on top of them.
//
// An appliance belongs to one process at a time. [Open] refuses a database and a token
// that do not belong together. It creates nothing unless Options.Provision is set. Then
// it creates whatever is missing, but refuses the leftovers of an appliance whose database
// is missing.
package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/clock"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
	"github.com/kmsgate/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/logsink"
	"github.com/kmsgate/kmsgate/internal/servercert"
	"github.com/kmsgate/kmsgate/store"
)

// An Appliance is an open appliance. The caller must close it.
type Appliance struct {
	Config *config.Config
	Store  *store.Store
	Server *gateway.Server // nil if OpenStaged opened it

	options      Options
	device       hsm.Device
	keys         hsm.Backend
	token        hsm.Token
	log          *audit.Log               // nil if OpenStaged opened it
	ca           *ca.Authority            // nil if the configuration names a certificate
	clock        *clock.Clock             // nil if OpenStaged opened it
	certificates *servercert.Certificates // of the listeners; nil if OpenStaged opened it
	recordsOnly  bool                     // OpenRecords opens it
	closers      []func() error           // in the order of opening
}

// Options configure how an appliance is opened. The zero value suits an appliance that
// exists.
type Options struct {
	Provision       bool // create whatever is missing
	NewCA           bool // create a CA for an appliance that has lost its CA
	AcceptAuditLoss bool // continue although audit lines are lost
	// AcceptStoreRollback lets the database be older than the audit log, or than the token has seen.
	AcceptStoreRollback bool
	InsistOnPIN         bool // use the PIN although the token refused it before, or is about to lock

	// Device returns the device that a configuration names. It is required.
	Device func(*config.Config, Options) hsm.Device
	// Given, if not nil, returns the private key that is used instead of a new one for a CKA_ID. It
	// is for tests.
	Given func(id []byte) (privatekey.Key, bool)
	// Collectors, if not nil, returns the metrics of the open token.
	Collectors func(hsm.Token) []prometheus.Collector

	// EchoStringToSign makes the gateway answer a wrong signature with the string that the
	// client should have signed. It is for development.
	EchoStringToSign bool

	// Locked, if not nil, is called once this process holds the lock, before anything is
	// opened.
	Locked func() error

	// Archiver, if not nil, returns the writer of the appliance's backups. If it is nil, the
	// gateway refuses CreateBackup.
	Archiver func(*Appliance) gateway.Archiver

	Logger *slog.Logger // nil means slog.Default()

	// LogSink, if not nil, is what Logger writes to. Its dropped lines are a metric, and it is
	// flushed before a hanging token ends the process.
	LogSink *logsink.Sink
}

// ErrNotInitialized means that the configuration's appliance was never created.
var ErrNotInitialized = errors.New("the instance does not exist yet (create it with `kmsgate init --config FILE`)")

// Open opens an appliance, which no other process can open until Close.
func Open(ctx context.Context, c *config.Config, o Options) (_ *Appliance, err error) {
	a := newAppliance(c, o)
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
	openCertificates(a)
	last := a.Store.Now().Clock()
	a.clock = clock.New(clock.Wall, clock.Seen, last.Last, last.Problem)
	if a.log, err = a.openAudit(ctx, nil); err != nil {
		return nil, err
	}
	if err := keepDueKeys(a); err != nil {
		return nil, errors.Join(err, a.log.Close())
	}
	counter := prepareCounter(a)
	a.OnClose("the audit log", a.log.Close)
	if a.Server, err = gateway.New(ctx, a.gatewayConfig()); err != nil {
		return nil, err
	}
	counter.start()
	return a, nil
}

// OpenStaged opens an appliance that was extracted from a backup and does not serve yet.
// It takes no lock, and opens neither the audit log nor a gateway.
func OpenStaged(ctx context.Context, c *config.Config, o Options) (*Appliance, error) {
	a := newAppliance(c, o)
	err := a.openCA()
	if err == nil {
		err = a.openPair(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// OpenRecords opens only the database of an appliance, and the token, which unseals it. It does not
// migrate an older database, but refuses it. No other process can open the appliance until Close.
func OpenRecords(ctx context.Context, c *config.Config, o Options) (*Appliance, error) {
	a := newAppliance(c, o)
	a.recordsOnly = true
	unlock, err := LockDirectory(c.Directory)
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, unlock)
	if err := a.openPair(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func newAppliance(c *config.Config, o Options) *Appliance {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Appliance{Config: c, options: o, device: o.Device(c, o)}
}

// OnClose makes Close call f before it closes anything that is open already. An error
// says "closing name".
func (a *Appliance) OnClose(name string, f func() error) {
	a.closers = append(a.closers, func() error {
		if err := f(); err != nil {
			return fmt.Errorf("closing %s: %w", name, err)
		}
		return nil
	})
}

// Close flushes the gateway's pending writes, and closes everything in the reverse order of
// opening.
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

// VerifyAll signs with every key version, and unseals every access key and client key. See
// [keypair.VerifyAll].
func (a *Appliance) VerifyAll(ctx context.Context) (keypair.Verified, error) {
	return keypair.VerifyAll(ctx, a.Store, a.keys, a.token)
}

// Device names the appliance's token in messages, such as `the token with label "kms"`.
func (a *Appliance) Device() string { return a.device.String() }

// AuditLine returns the number of the audit log's last line. Open must have opened the appliance.
func (a *Appliance) AuditLine() uint64 { return a.log.Head().Seq }

// identity returns the KMS instance that the configuration names.
func (a *Appliance) identity() store.Instance {
	i := a.Config.Instance
	return store.Instance{InstanceId: i.ID, RegionId: i.Region, AccountId: i.Account}
}
