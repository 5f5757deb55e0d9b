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

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/softhsm"
)

// RestoreOptions say what [Restore] needs besides the backup.
type RestoreOptions struct {
	Dir        string // to restore into: empty, or missing
	Identities []archive.Identity

	// Trusted is the instance's audit public key, which must have signed the backup. If
	// it is nil, the key in the backup itself is believed: everybody who knows the
	// recipient can have made it.
	Trusted audit.PublicKey

	Module  string // the PKCS#11 module, if it is not the one in the backup
	PINFile string // the file with the PIN, if it is not the one in the backup

	AcceptLostKeys bool // go on although some keys do not sign
	KeepDueKeys    bool // cancel deletions that fell due since the backup
	InsistOnPIN    bool // use the PIN although few attempts are left

	// NewLogger returns the logger for what the backup's configuration says of logs. Nil
	// means slog.Default.
	NewLogger func(config.Log) *slog.Logger
}

// Restored says what was restored, and where.
type Restored struct {
	Dir       string           // absolute
	Config    *config.Config   // as it is in Dir/kmsgate.yaml
	TokenDir  string           // the SoftHSM token of the operator's that was restored; empty if none was
	Manifest  archive.Manifest // of the backup
	AuditHead audit.Checkpoint // of the backup: the audit log goes on behind it
	Verified  keypair.Verified // what was tried and works
}

// Restore restores a backup. When it returns without an error, every key version has made
// a valid signature, and every access key and client key was unsealed, unless lost keys are
// accepted, and Dir has the files and the configuration of an appliance that can be opened.
// On an error Dir is as it was, except that an audit log of the operator's in it can have a
// line that says what was tried.
func Restore(ctx context.Context, backup io.Reader, o RestoreOptions) (*Restored, error) {
	if o.NewLogger == nil {
		o.NewLogger = func(config.Log) *slog.Logger { return slog.Default() }
	}
	r := restoration{RestoreOptions: o}
	leave, err := r.enter()
	if err != nil {
		return nil, err
	}
	c, err := r.restore(ctx, backup)
	if err := leave(err); err != nil {
		exception := ""
		if r.wroteLog {
			exception = ", except that its audit log has a line that says what was tried"
		}
		return nil, fmt.Errorf("%w\nNothing was restored: %s is as it was%s", err, r.Dir, exception)
	}
	done := &Restored{Dir: r.Dir, Config: c, Manifest: r.manifest, AuditHead: r.head, Verified: r.verified}
	if c.Token.SoftHSMConf == filepath.Join(r.Dir, archivedSoftHSMConf) {
		done.TokenDir = filepath.Join(r.Dir, archivedToken)
	}
	return done, nil
}

// A restoration is a restore that is under way.
type restoration struct {
	RestoreOptions
	ownLog   bool // the operator has put the audit log into Dir
	wroteLog bool // this restore has written to that log
	manifest archive.Manifest
	head     audit.Checkpoint // the backup's
	verified keypair.Verified
}

// staging returns the path of a file until all keys have signed. Whatever happens, what
// is there is no appliance.
func (r *restoration) staging(name string) string { return filepath.Join(r.Dir, "restoring", name) }

// restore extracts, tries and puts in place.
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
		return nil, fmt.Errorf("the saved configuration: %w", err)
	}
	if saved, err = r.withOptions(saved); err != nil {
		return nil, err
	}
	if err := r.try(ctx, saved); err != nil {
		return nil, err
	}
	final, err := r.moved(saved, r.Dir)
	if err != nil {
		return nil, err
	}
	return final, r.place(final)
}

// checkNames refuses files that no backup has: a gateway, or another restore, would take
// them for its own.
func (r *restoration) checkNames() error {
	for _, f := range r.manifest.Files {
		if !slices.Contains(archivedFiles, f.Name) && !strings.HasPrefix(f.Name, archivedToken+"/") {
			return fmt.Errorf("%w: no backup has a file %q", archive.ErrBroken, f.Name)
		}
	}
	return nil
}

// archivedFiles are what a backup has besides the files of a SoftHSM token.
var archivedFiles = []string{archivedConfig, archivedDatabase, archivedCA, archivedCAKey, archivedAuditKey, archivedPIN}

// auditHead returns the head that the manifest names. The key that has signed the
// manifest must have signed it, too.
func (r *restoration) auditHead() (audit.Checkpoint, error) {
	head, err := audit.ParseCheckpoint(r.manifest.AuditHead)
	if err != nil {
		return head, fmt.Errorf("the audit head in the backup: %w", err)
	}
	key, err := r.manifest.Key()
	if err != nil {
		return head, err
	}
	if !head.Check(key) {
		return head, fmt.Errorf("%w: its audit head is not signed by its key", archive.ErrBroken)
	}
	return head, nil
}

// withOptions returns the saved configuration with the module and the PIN file of the
// options. A module is code: it must not come with the backup.
func (r *restoration) withOptions(saved *config.Config) (*config.Config, error) {
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
	if r.holds(c.Token.Module) {
		return nil, fmt.Errorf("%w: it names a PKCS#11 module in %s, which holds nothing but what the backup brought", archive.ErrBroken, r.Dir)
	}
	return &c, nil
}

// holds reports whether a path leads into Dir, by whatever way.
func (r *restoration) holds(path string) bool {
	in := func(path, dir string) bool { return strings.HasPrefix(path, dir+string(filepath.Separator)) }
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return in(path, r.Dir) // there is no such file to load
	}
	dir, err := filepath.EvalSymlinks(r.Dir)
	return err != nil || in(real, dir) || strings.HasPrefix(real, "/proc/")
}

// moved returns a configuration with the appliance's own files in dir, and everything
// else as it was. It also points the SoftHSM configuration that was extracted to dir.
func (r *restoration) moved(saved *config.Config, dir string) (*config.Config, error) {
	c := *saved
	in := func(name string) string { return filepath.Join(dir, name) }
	c.Directory, c.Store.File, c.Audit.File = dir, in(archivedDatabase), in(logFile)
	c.Admin.Socket = config.SocketIn(r.Dir)
	if c.TLS.Certificate == "" {
		c.TLS.CAFile, c.TLS.CAKeyFile = in(archivedCA), in(archivedCAKey)
	}
	if c.Token.SoftHSM != "" {
		c.Token.SoftHSM = in(archivedToken)
		return &c, nil
	}
	text, err := os.ReadFile(r.staging(archivedSoftHSMConf))
	if errors.Is(err, fs.ErrNotExist) {
		return &c, nil // the token is an HSM's
	}
	if err != nil {
		return nil, err
	}
	c.Token.SoftHSMConf, c.Token.PINFile, c.Token.PINEnv = in(archivedSoftHSMConf), in(archivedPIN), ""
	return &c, durable.Write(r.staging(archivedSoftHSMConf), []byte(softhsm.Retarget(string(text), in(archivedTokens))), 0o600)
}

// try opens what was extracted, has every key sign, and writes into the audit log that
// the records are a backup's.
func (r *restoration) try(ctx context.Context, saved *config.Config) error {
	staged, err := r.moved(saved, r.staging(""))
	if err != nil {
		return err
	}
	if r.ownLog {
		staged.Audit.File = filepath.Join(r.Dir, logFile)
	}
	logger := r.NewLogger(saved.Log)
	a, err := appliance.OpenStaged(ctx, staged, appliance.Options{InsistOnPIN: r.InsistOnPIN, Logger: logger})
	if err != nil {
		return err
	}
	return errors.Join(r.verifyAll(ctx, a, logger), a.Close())
}

func (r *restoration) verifyAll(ctx context.Context, a *appliance.Appliance, logger *slog.Logger) (err error) {
	if !bytes.Equal(a.AuditPublicKey(), r.manifest.PublicKey) {
		return fmt.Errorf("%w: the database in it is of another one", archive.ErrForeign)
	}
	r.verified, err = a.VerifyAll(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !r.AcceptLostKeys:
		return fmt.Errorf("%w\nThe other %d keys sign. Take another backup; or, to go on without these, add --accept-lost-keys", err, r.verified.Keys)
	case err != nil:
		logger.Warn("going on without keys that do not sign", "reason", err)
	}
	opened, err := a.ContinueLog(r.head, r.KeepDueKeys)
	r.wroteLog = r.ownLog && opened
	return err
}
