package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/sealed"
	"github.com/kmsgate/kmsgate/hsm/token"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/softhsm"
	"github.com/kmsgate/kmsgate/store"
)

// An instance is all that a configuration names, opened: what serves, and what
// commands work on when nothing does.
type instance struct {
	config *config.Config
	mode   mode
	logger *slog.Logger
	db     *store.Store
	keys   hsm.Backend
	token  *token.Token
	server *gateway.Server
	ca     *authority // nil if the operator has a certificate of his own

	closers []func() error // in the order of opening
}

// mode is how an instance is opened besides its configuration.
type mode struct {
	provision       bool // make what is missing
	newCA           bool // make a CA for an instance that has lost its own
	dev             bool // for a developer: tells what should have been signed
	acceptAuditLoss bool
	insistOnPIN     bool
	locked          func() error // called first of all when the instance is this process's; nil: nothing
}

// openInstance opens an instance for this process alone. What it returns has to
// be closed, unless there is an error.
func openInstance(ctx context.Context, c *config.Config, m mode, logger *slog.Logger) (_ *instance, err error) {
	i := &instance{config: c, mode: m, logger: logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.close())
		}
	}()
	unlock, err := lockDir(c.Directory)
	if err != nil {
		return nil, err
	}
	i.closers = append(i.closers, unlock)
	if m.locked != nil {
		if err := m.locked(); err != nil {
			return nil, err
		}
	}
	if err := i.openStorage(ctx); err != nil {
		return nil, err
	}
	if i.ca, err = i.openCA(); err != nil {
		return nil, err
	}
	log, err := i.openAudit(nil)
	if err != nil {
		return nil, err
	}
	i.closing("the audit log", log.Close)
	i.server, err = gateway.New(ctx, i.gatewayConfig(log))
	return i, err
}

// openStorage opens the database and the token, which have to belong together.
// The database is first: once it is of an instance nothing is made in a token,
// which would be another's. And it is made first, so that what is there without it
// is of an instance that has lost it.
func (i *instance) openStorage(ctx context.Context) (err error) {
	if err := i.openDatabase(ctx); err != nil {
		return err
	}
	whole := i.hasAuditKey()
	if i.keys, i.token, err = i.openToken(i.mode.provision && !whole); whole && isLost(err) {
		return fmt.Errorf("%w. The database %s has keys in the token that it was made with, and no other will do: %s", err, i.config.Store.File, lostToken)
	} else if err != nil {
		return err
	}
	i.closing("the token", i.token.Close)
	if err := i.auditKey(ctx); err != nil {
		return err
	}
	return i.checkToken(ctx)
}

// openDatabase opens the database, or makes it where nothing is left of another
// instance.
func (i *instance) openDatabase(ctx context.Context) error {
	path := i.config.Store.File
	open := func() (err error) {
		if i.db, err = store.Open(path); err == nil {
			i.closing("the database", i.db.Close)
		}
		return err
	}
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		if err := open(); err != nil {
			return err
		}
	}
	is, err := i.checkInstance()
	switch {
	case err != nil:
		return err
	case is && i.hasAuditKey():
		return nil
	case is && !i.mode.provision:
		return errNotInitialized // an init was cut off
	case !i.mode.provision:
		return i.noInstance(ctx)
	}
	if err := i.checkUnused(ctx, is); err != nil {
		return err
	}
	if i.db == nil {
		if err := open(); err != nil {
			return err
		}
	}
	return i.db.Update(func(tx *store.Tx) error { return tx.SetInstance(i.identity()) })
}

// isLost reports whether an error of the token says that another one, or a backup, is
// what helps.
func isLost(err error) bool {
	return errors.Is(err, token.ErrNotOurs) || errors.Is(err, errNoTokenDir)
}

var errNoTokenDir = errors.New("is not there")

const lostToken = "give the right one in the configuration, or, if it is lost, restore token and database from a backup (kmsgate restore)"

// hasAuditKey reports whether provisioning the token was completed: the key is
// the last that is made.
func (i *instance) hasAuditKey() bool { return i.db.Now().AuditKey().ID != nil }

// checkToken refuses a token that is not the database's, before anything is done
// with either.
func (i *instance) checkToken(ctx context.Context) error {
	err := keypair.MatchesToken(ctx, i.db, i.keys, i.token)
	if errors.Is(err, keypair.ErrForeignToken) {
		return fmt.Errorf("%w. Nothing was changed. The token is %s, the database %s: %s", err, i.tokenName(), i.config.Store.File, lostToken)
	}
	return err
}

// tokenName says which token the configuration names.
func (i *instance) tokenName() string {
	switch t := i.config.Token; {
	case t.SoftHSM != "":
		return "the one in " + t.SoftHSM
	case t.Serial != "":
		return fmt.Sprintf("the one with serial number %q of %s", t.Serial, t.Module)
	default:
		return fmt.Sprintf("the one with label %q of %s", t.Label, t.Module)
	}
}

// closing remembers what is to be closed in the end.
func (i *instance) closing(what string, close func() error) {
	i.closers = append(i.closers, func() error {
		if err := close(); err != nil {
			return fmt.Errorf("closing %s: %w", what, err)
		}
		return nil
	})
}

// close closes everything in the opposite order of opening.
func (i *instance) close() (err error) {
	for _, close := range slices.Backward(i.closers) {
		err = errors.Join(err, close())
	}
	i.closers = nil
	return err
}

func (i *instance) gatewayConfig(log *audit.Log) gateway.Config {
	c := i.config
	interval := c.Limits.VersionInterval
	if interval == 0 {
		interval = -1
	}
	shared := c.Quotas.Shared
	g := gateway.Config{
		Store: i.db, Backend: i.keys, Sealer: i.token, Random: i.token, Audit: log, Logger: i.logger, Archiver: archiver{i}, Inspector: i.token, Collectors: tokenMetrics(i.token),
		Quotas: limit.Quotas{
			Shared: map[string]float64{"asymmetric": float64(shared.Asymmetric), "key_read": float64(shared.KeyRead), "key_write": float64(shared.KeyWrite),
				"key_creation": float64(shared.KeyCreation), "tag_query": float64(shared.TagQuery), "instance_read": float64(shared.InstanceRead), "activation": float64(shared.Activation)},
			DedicatedUser: float64(c.Quotas.Dedicated.PerUser), DedicatedInstance: float64(c.Quotas.Dedicated.Instance),
		},
		MaxKeys: c.Limits.Keys, MaxAliases: c.Limits.Aliases, MinVersionInterval: interval,
		EchoStringToSign: i.mode.dev,
	}
	if i.ca != nil {
		g.CACertificate = i.ca.certificate()
	}
	return g
}

var errNotInitialized = errors.New("there is no instance yet: `kmsgate init` makes it")

// identity is which instance the configuration is of.
func (i *instance) identity() store.Instance {
	return store.Instance{InstanceId: i.config.Instance.ID, RegionId: i.config.Instance.Region, AccountId: i.config.Instance.Account}
}

// checkInstance reports whether there is a database of an instance. It has to be the
// one of the configuration.
func (i *instance) checkInstance() (there bool, err error) {
	if i.db == nil {
		return false, nil
	}
	is, want := i.db.Now().Instance(), i.identity()
	if is != want && is != (store.Instance{}) {
		err = fmt.Errorf("the database %s is of instance %s in region %s of account %s, and the configuration says %s, %s, %s",
			i.config.Store.File, is.InstanceId, is.RegionId, is.AccountId, want.InstanceId, want.RegionId, want.AccountId)
	}
	return is == want, err
}

// auditKey sees to it that there is a key that signs the audit log's checkpoints,
// and that its public half is in a file for auditors.
func (i *instance) auditKey(ctx context.Context) error {
	key := i.db.Now().AuditKey()
	if key.ID == nil {
		if !i.mode.provision {
			return errNotInitialized
		}
		made, err := i.newAuditKey(ctx)
		if err != nil {
			return fmt.Errorf("making the audit log's key: %w", err)
		}
		key = made
	}
	path := auditPublicKeyFile(i.config)
	if before, err := os.ReadFile(path); err == nil {
		if block, _ := pem.Decode(before); block != nil && !bytes.Equal(block.Bytes, key.Public) {
			return fmt.Errorf("%s is not the public half of the audit key that the database %s has: one of them is of another instance. Put the right one back; if that is the database, remove %[1]s, and it is written anew", path, i.config.Store.File)
		}
	}
	return durable.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key.Public}), 0o644)
}

func auditPublicKeyFile(c *config.Config) string {
	return filepath.Join(c.Directory, "audit-public-key.pem")
}

// newAuditKey makes the key, on P-256, or RSA for a token without curves.
func (i *instance) newAuditKey(ctx context.Context) (hsm.Key, error) {
	key, err := i.makeAuditKey(ctx, hsm.EC_P256)
	if errors.Is(err, hsm.ErrKeySpec) {
		key, err = i.makeAuditKey(ctx, hsm.RSA_2048)
	}
	return key, err
}

// makeAuditKey makes the key. Until it is recorded it is an orphan, which the
// gateway destroys at its next start.
func (i *instance) makeAuditKey(ctx context.Context, spec hsm.KeySpec) (hsm.Key, error) {
	id := uuid.New()
	orphan := store.Orphan{KeyVersionId: id.String(), Key: hsm.Key{ID: id[:], Spec: spec}}
	if err := i.db.Update(func(tx *store.Tx) error { return tx.Orphans().Put(orphan) }); err != nil {
		return hsm.Key{}, err
	}
	key, err := i.keys.Generate(ctx, spec, id[:])
	if err != nil {
		return hsm.Key{}, err
	}
	return key, i.db.Update(func(tx *store.Tx) error {
		return errors.Join(tx.SetAuditKey(key), tx.Orphans().Delete(orphan.KeyVersionId))
	})
}

// auditAlgorithm is what the audit key signs with, as audit.PublicKey has it.
func auditAlgorithm(key hsm.Key) hsm.Algorithm {
	if key.Spec == hsm.EC_P256 {
		return hsm.ECDSA_SHA_256
	}
	return hsm.RSA_PKCS1_SHA_256
}

// openAudit opens the log; restored is the head of the backup that the database is
// from, nil if it is from none.
func (i *instance) openAudit(restored *audit.Checkpoint) (*audit.Log, error) {
	records := i.db.Now()
	kept, key := records.AuditHead(), records.AuditKey()
	var least uint64
	for o := range records.Outbox().All() {
		least = max(least, o.After)
	}
	a := i.config.Audit
	log, err := audit.Open(audit.Config{
		Path: a.File, CheckpointEvery: a.CheckpointEvery, RotateSize: int64(a.RotateSize), RotateAge: a.RotateAge, WarnFree: uint64(a.WarnFree), Logger: i.logger,
		Expect: audit.Head{Seq: kept.Seq, Hash: kept.Hash}, Ended: kept.Ended, AtLeast: least, Restored: restored,
		AcceptLoss: i.mode.acceptAuditLoss, AcceptLossHint: acceptAuditLossHint,
		Sign: func(ctx context.Context, digest []byte) ([]byte, error) {
			return i.keys.Sign(ctx, key, auditAlgorithm(key), digest)
		},
		Keep: func(c audit.Checkpoint, ended bool) error {
			head := store.AuditHead{Seq: c.Seq, Hash: c.Hash, Time: c.Time, Signature: c.Signature, Ended: ended}
			return i.db.Update(func(tx *store.Tx) error { return tx.SetAuditHead(head) })
		},
	})
	if loss := new(audit.LossError); errors.As(err, &loss) && restored == nil { // kmsgate restore has no such flag
		err = fmt.Errorf("%w (%s)", err, acceptAuditLossHint)
	}
	return log, err
}

// openCA opens the CA, unless the operator has a certificate of his own. It is made
// while there is no user yet: afterwards there are clients that trust the one that was.
func (i *instance) openCA() (*authority, error) {
	t := i.config.TLS
	if t.Certificate != "" {
		return nil, nil
	}
	_, err := os.Stat(t.CAKeyFile)
	missing := errors.Is(err, os.ErrNotExist)
	switch {
	case i.mode.newCA && !missing:
		return nil, fmt.Errorf("there is a CA in %s: to have another one, move it away", t.CAKeyFile)
	case missing && (i.mode.newCA || i.mode.provision && !i.hasUsers()):
		return makeAuthority(t.CAFile, t.CAKeyFile)
	case missing:
		return nil, fmt.Errorf("the CA's key %s is gone, and clients trust that CA and no other. %s", t.CAKeyFile, lostCA)
	}
	return openAuthority(t.CAFile, t.CAKeyFile)
}

const lostCA = "Put it back from a backup (kmsgate restore). Only if there is none: `kmsgate init --new-ca` makes another one, and every client has to be given its certificate"

func (i *instance) hasUsers() bool { return i.db.Now().Users().Len() > 0 }

// openToken opens the token and what makes and uses keys in it. With provision it
// makes what is missing.
func (i *instance) openToken(provision bool) (hsm.Backend, *token.Token, error) {
	cfg, err := i.tokenConfig(provision)
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
		i.logger.Error("exiting to be restarted", "reason", err)
		os.Exit(1)
	}
	tok, err := token.Open(cfg)
	if err != nil {
		return nil, nil, i.whyNoToken(err)
	}
	software.Store(sealed.New(tok))
	return hsm.Route{Token: tok, Sealed: software.Load(), Logger: i.logger}, tok, nil
}

// whyNoToken adds what to do to an error of connecting to the token.
func (i *instance) whyNoToken(err error) error {
	if errors.Is(err, token.ErrPIN) {
		return fmt.Errorf("%w. The PIN is that of %s; when you are sure of it and few attempts are left, start once with --insist-on-pin", err, i.pinSource())
	}
	return i.explained(err)
}

// pinSource says where the PIN comes from.
func (i *instance) pinSource() string {
	switch t := i.config.Token; {
	case t.SoftHSM != "":
		return t.SoftHSM
	case t.PINEnv != "":
		return "the environment variable " + t.PINEnv
	default:
		return t.PINFile
	}
}

func (i *instance) tokenConfig(provision bool) (token.Config, error) {
	t := i.config.Token
	cfg := token.Config{Module: t.Module, Label: t.Label, Serial: t.Serial, UserType: t.UserTypeNumber(), Sessions: t.Sessions, Provision: provision, InsistOnPIN: i.mode.insistOnPIN, Logger: i.logger}
	if t.SoftHSM == "" {
		return cfg, i.adopt(&cfg)
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

// newLogger makes the log that a configuration asks for.
func newLogger(w io.Writer, l config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		level = slog.LevelInfo // the configuration was checked
	}
	options := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
