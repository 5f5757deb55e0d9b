package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/softhsm"
)

// RestoreOptions configure a [Restore].
type RestoreOptions struct {
	Dir        string // the target directory: empty or missing
	Identities []archive.Identity

	// Trusted is the instance's audit public key, which must have signed the backup. If
	// it is nil, Restore trusts the key in the backup. Then anyone who knows the recipient
	// can have made the backup.
	Trusted audit.PublicKey

	Module  string // the path of the PKCS#11 module; empty: as in the backup's configuration
	PINFile string // the path of the file with the PIN; empty: as in the backup's configuration

	AcceptLostKeys bool // continue although some keys do not sign
	KeepDueKeys    bool // cancel deletions that fell due since the backup
	InsistOnPIN    bool // use the PIN although the token is about to lock

	// NewLogger returns the logger for the log settings of the backup's configuration. Nil
	// means slog.Default.
	NewLogger func(config.Log) *slog.Logger
}

// Restored is the result of a [Restore].
type Restored struct {
	Dir       string           // absolute
	Config    *config.Config   // the content of Dir/kmsgate.yaml
	TokenDir  string           // of a restored SoftHSM token that kmsgate did not create; else empty
	Manifest  archive.Manifest // the backup's
	AuditHead audit.Checkpoint // the backup's; the audit log continues after it
	Verified  keypair.Verified // the keys that were verified
}

// Restore restores a backup. If it returns no error, every key version has made a valid
// signature, and every access key and client key was unsealed, unless lost keys are accepted.
// Then Dir has the files and the configuration of an appliance that can be opened. On an error
// Dir is unchanged, except that the operator's copy of the audit log in it can have a line
// about this attempt.
func Restore(ctx context.Context, backup io.Reader, o RestoreOptions) (*Restored, error) {
	if o.NewLogger == nil {
		o.NewLogger = func(config.Log) *slog.Logger { return slog.Default() }
	}
	r := restoration{RestoreOptions: o}
	finish, err := r.begin()
	if err != nil {
		return nil, err
	}
	c, err := r.restore(ctx, backup)
	if err := finish(err); err != nil {
		exception := ""
		if r.wroteLog {
			exception = ", except that its audit log has a line about this attempt"
		}
		return nil, fmt.Errorf("%w\nNothing was restored: %q is unchanged%s", err, r.Dir, exception)
	}
	restored := &Restored{Dir: r.Dir, Config: c, Manifest: r.manifest, AuditHead: r.head, Verified: r.verified}
	if c.Token.SoftHSMConf == filepath.Join(r.Dir, archivedSoftHSMConf) {
		restored.TokenDir = filepath.Join(r.Dir, archivedToken)
	}
	return restored, nil
}

// A restoration is a restore in progress.
type restoration struct {
	RestoreOptions
	ownLog   bool // the operator has copied the audit log into Dir
	wroteLog bool // this restore has written to that log
	manifest archive.Manifest
	head     audit.Checkpoint // the backup's
	verified keypair.Verified
}

// staging returns the path of a file until all keys have signed. The staging directory is
// never a usable appliance, whatever happens.
func (r *restoration) staging(name string) string { return filepath.Join(r.Dir, "restoring", name) }

// restore extracts the backup, verifies it, and moves its files into place.
func (r *restoration) restore(ctx context.Context, backup io.Reader) (_ *config.Config, err error) {
	if r.manifest, err = archive.Extract(backup, r.staging(""), r.Trusted, r.Identities...); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	if err := r.checkNames(); err != nil {
		return nil, err
	}
	if r.head, err = r.auditHead(); err != nil {
		return nil, err
	}
	saved, err := config.LoadWritten(r.staging(archivedConfig))
	if err != nil {
		return nil, fmt.Errorf("loading the backup's configuration: %w", err)
	}
	if saved, err = r.applyOptions(saved); err != nil {
		return nil, err
	}
	if err := r.verify(ctx, saved); err != nil {
		return nil, err
	}
	final, err := r.relocate(saved, r.Dir)
	if err != nil {
		return nil, err
	}
	return final, r.place(final)
}

// checkNames refuses files that no archiver writes. A gateway, or another restore, would take
// such a file for its own.
func (r *restoration) checkNames() error {
	for _, f := range r.manifest.Files {
		if !slices.Contains(archivedFiles, f.Name) && !strings.HasPrefix(f.Name, archivedToken+"/") {
			return fmt.Errorf("%w: it has an unexpected file %q", archive.ErrBroken, f.Name)
		}
	}
	return nil
}

// archivedFiles are the names of a backup's files, without those of a SoftHSM token.
var archivedFiles = []string{archivedConfig, archivedDatabase, archivedCA, archivedCAKey, archivedAuditKey, archivedPIN}

// auditHead returns the audit head in the manifest, which the manifest's key must have
// signed.
func (r *restoration) auditHead() (audit.Checkpoint, error) {
	head, err := audit.ParseCheckpoint(r.manifest.AuditHead)
	if err != nil {
		return head, fmt.Errorf("parsing the backup's audit head: %w", err)
	}
	key, err := r.manifest.Key()
	if err != nil {
		return head, err
	}
	if !head.Check(key) {
		return head, fmt.Errorf("%w: its key did not sign its audit head", archive.ErrBroken)
	}
	return head, nil
}

// applyOptions returns the saved configuration with the module and the PIN file of the
// options. It refuses a module in Dir: a module is code, which must not come with the backup. It also
// refuses one that another user can change, because a backup that only its own key has signed could
// name it.
func (r *restoration) applyOptions(saved *config.Config) (*config.Config, error) {
	c := *saved
	var err error
	if r.Module != "" {
		if c.Token.Module, err = filepath.Abs(r.Module); err != nil {
			return nil, err
		}
	}
	if r.PINFile != "" {
		c.Token.PINEnv = ""
		if c.Token.PINFile, err = filepath.Abs(r.PINFile); err != nil {
			return nil, err
		}
	}
	if r.contains(c.Token.Module) {
		return nil, fmt.Errorf("%w: its PKCS#11 module %q is in the target directory %q (name the installed module "+
			"with --module)",
			archive.ErrBroken, c.Token.Module, r.Dir)
	}
	if c.Token.SoftHSM == "" {
		return &c, hardware.CheckModule(c.Token.Module)
	}
	return &c, nil
}

// contains reports whether a path leads into Dir, also by symbolic links or /proc.
func (r *restoration) contains(path string) bool {
	isInside := func(path, dir string) bool { return strings.HasPrefix(path, dir+string(filepath.Separator)) }
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return isInside(path, r.Dir) // no file to follow, so only the path itself can tell
	}
	dir, err := filepath.EvalSymlinks(r.Dir)
	return err != nil || isInside(resolved, dir) || strings.HasPrefix(resolved, "/proc/")
}

// relocate returns saved with the appliance's own files in dir, and everything else
// unchanged. It also makes the extracted SoftHSM configuration point to dir.
func (r *restoration) relocate(saved *config.Config, dir string) (*config.Config, error) {
	c := *saved
	path := func(name string) string { return filepath.Join(dir, name) }
	c.Directory, c.Store.File, c.Audit.File = dir, path(archivedDatabase), path(logFile)
	c.Admin.Socket = config.SocketIn(r.Dir)
	if c.TLS.Certificate == "" {
		c.TLS.CAFile, c.TLS.CAKeyFile = path(archivedCA), path(archivedCAKey)
	}
	if c.Token.SoftHSM != "" {
		c.Token.SoftHSM = path(archivedToken)
		return &c, nil
	}
	text, err := os.ReadFile(r.staging(archivedSoftHSMConf))
	if errors.Is(err, fs.ErrNotExist) {
		return &c, nil // not a SoftHSM token
	}
	if err != nil {
		return nil, err
	}
	c.Token.SoftHSMConf, c.Token.PINFile, c.Token.PINEnv = path(archivedSoftHSMConf), path(archivedPIN), ""
	text = []byte(softhsm.Retarget(string(text), path(archivedTokens)))
	return &c, durable.Write(r.staging(archivedSoftHSMConf), text, 0o600)
}

// verify opens the extracted appliance, signs with every key, and records in the audit log
// that the records come from a backup.
func (r *restoration) verify(ctx context.Context, saved *config.Config) error {
	staged, err := r.relocate(saved, r.staging(""))
	if err != nil {
		return err
	}
	if r.ownLog {
		staged.Audit.File = filepath.Join(r.Dir, logFile)
	}
	logger := r.NewLogger(saved.Log)
	// The operator has chosen the backup, which can be older than what the token has seen, and not sealed.
	a, err := hardware.OpenStaged(ctx, staged,
		appliance.Options{InsistOnPIN: r.InsistOnPIN, AcceptStoreRollback: true, Logger: logger})
	if err != nil {
		return err
	}
	return errors.Join(r.verifyAll(ctx, a, logger), a.Close())
}

func (r *restoration) verifyAll(ctx context.Context, a *appliance.Appliance, logger *slog.Logger) (err error) {
	if !bytes.Equal(a.AuditPublicKey(), r.manifest.PublicKey) {
		return fmt.Errorf("%w: its database has another audit key than its manifest", archive.ErrForeign)
	}
	r.verified, err = a.VerifyAll(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !r.AcceptLostKeys:
		return fmt.Errorf("%w\nThe other %d keys sign. Restore another backup, or continue without the lost keys with "+
			"--accept-lost-keys", err, r.verified.Keys)
	case err != nil:
		logger.Warn("continuing without keys that do not sign", "err", err)
	}
	opened, err := a.ContinueLog(ctx, r.head, r.KeepDueKeys)
	r.wroteLog = r.ownLog && opened
	return err
}
