package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/softhsm"
)

// A restore is what a command line says of one, and one that is on its way.
type restore struct {
	dir            string
	identity       string // the file
	passphrase     string // the file
	publicKey      string // the file
	unverified     bool
	module         string // instead of the one that the configuration names
	pinFile        string // likewise
	acceptLostKeys bool
	keepDueKeys    bool
	options        appliance.Options

	ownLog   bool // the operator has put the audit log there
	wrote    bool // into it
	manifest archive.Manifest
	head     audit.Checkpoint // the backup's
	proof    keypair.Verified
}

func restoreCommand() *cobra.Command {
	var r restore
	cmd := &cobra.Command{
		Use:   "restore FILE --dir DIR",
		Short: "Restore a backup into an empty directory, and have every key sign",
		Long: `Restore a backup into an empty directory, and have every key sign. Only when each
version of each key has made a signature that is valid, and each access key is
unsealed, the instance is there, and DIR/kmsgate.yaml is its configuration: the
one that was saved, with the instance's own files in DIR. On any error DIR is as it
was.

With --identity, --audit-public-key has to say whose the backup is: everybody who
knows the recipient can make one, and restoring it loads the module that it names.
Who has no such file takes --unverified, for a backup that was in nobody else's hands.

A SoftHSM token and its PIN are restored into DIR, too. A backup of an instance with
an HSM is restored beside that HSM, with the module, the label and the file of the PIN
that the configuration names, or with --module and --pin-file.

The audit log goes on behind the head that the backup has, and says so. If you
still have the log, copy its files to DIR/audit.log and DIR/audit.log.* before: then
it goes on there. With - FILE is the standard input.`,
		Example: `  kmsgate restore kmsgate.age --dir /var/lib/kmsgate --identity key.txt --audit-public-key audit.pem
  kmsgate serve --config /var/lib/kmsgate/kmsgate.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&r.dir, "dir", "", "the `DIR` to restore into: empty, or made")
	flags.StringVar(&r.identity, "identity", "", "the `FILE` with the age identity that opens it")
	flags.StringVar(&r.passphrase, "passphrase-file", "", "the `FILE` with the passphrase that opens it")
	flags.StringVar(&r.publicKey, "audit-public-key", "", "the `FILE` with the instance's audit public key, kept elsewhere, which has to have signed it")
	flags.BoolVar(&r.unverified, "unverified", false, "believe the backup without --audit-public-key")
	flags.StringVar(&r.module, "module", "", "the `PATH` of the PKCS#11 module, where it is another than in the backup")
	flags.StringVar(&r.pinFile, "pin-file", "", "the `FILE` with the PIN of the HSM's user, where it is another than in the backup")
	flags.BoolVar(&r.acceptLostKeys, "accept-lost-keys", false, "go on although some keys do not sign; they are named")
	flags.BoolVar(&r.keepDueKeys, "keep-due-keys", false, "enable keys again whose deletion fell due since the backup; otherwise they are deleted at the first start")
	insistOnPINFlag(cmd, &r.options.InsistOnPIN)
	_ = cmd.MarkFlagRequired("dir") // there is such a flag
	cmd.MarkFlagsOneRequired("identity", "passphrase-file")
	cmd.MarkFlagsMutuallyExclusive("identity", "passphrase-file")
	cmd.MarkFlagsMutuallyExclusive("audit-public-key", "unverified")
	return cmd
}

func (r *restore) run(cmd *cobra.Command, path string) (err error) {
	if r.identity != "" && r.publicKey == "" && !r.unverified {
		return errors.New("whose is the backup? Everybody who knows the recipient can make one: give the instance's audit public key with --audit-public-key; or --unverified, if it was in nobody else's hands")
	}
	identities, err := r.identities()
	if err != nil {
		return err
	}
	trusted, err := r.trusted()
	if err != nil {
		return err
	}
	in, err := openBackup(cmd, path)
	if err != nil {
		return err
	}
	defer in.Close()
	leave, err := r.enter()
	if err != nil {
		return err
	}
	c, err := r.restore(cmd, in, trusted, identities)
	if err := leave(err); err != nil {
		but := ""
		if r.wrote {
			but = ", but that its audit log says what was tried"
		}
		return fmt.Errorf("%w\nNothing was restored: %s is as it was%s", err, r.dir, but)
	}
	r.report(cmd, c)
	return nil
}

// staging is where files are until all keys have signed: whatever happens, what
// is in it is no instance.
func (r *restore) staging(name string) string { return filepath.Join(r.dir, "restoring", name) }

// restore extracts, tries and puts in place.
func (r *restore) restore(cmd *cobra.Command, in io.Reader, trusted audit.PublicKey, identities []archive.Identity) (c *config.Config, err error) {
	ctx := cmd.Context()
	if r.manifest, err = archive.Extract(in, r.staging(""), trusted, identities...); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	if err := r.checkNames(); err != nil {
		return nil, err
	}
	if r.head, err = r.auditHead(); err != nil {
		return nil, err
	}
	saved, err := config.Load(r.staging(archivedConfig))
	if err != nil {
		return nil, fmt.Errorf("the saved configuration: %w", err)
	}
	if saved, err = r.withOptions(saved); err != nil {
		return nil, err
	}
	staged, err := r.moved(saved, r.staging(""))
	if err != nil {
		return nil, err
	}
	if r.ownLog {
		staged.Audit.File = filepath.Join(r.dir, "audit.log")
	}
	r.options.Logger = saved.Log.Quiet(cmd.ErrOrStderr())
	a, err := appliance.OpenStaged(ctx, staged, r.options)
	if err != nil {
		return nil, err
	}
	err = r.try(ctx, a)
	if err := errors.Join(err, a.Close()); err != nil {
		return nil, err
	}
	final, err := r.moved(saved, r.dir)
	if err != nil {
		return nil, err
	}
	return final, r.place(final)
}

// checkNames refuses files that no backup has: they would come to be where a
// gateway, or a restore, takes them for its own.
func (r *restore) checkNames() error {
	for _, f := range r.manifest.Files {
		if !slices.Contains(archivedFiles, f.Name) && !strings.HasPrefix(f.Name, archivedToken+"/") {
			return fmt.Errorf("%w: no backup has a file %q", archive.ErrBroken, f.Name)
		}
	}
	return nil
}

// archivedFiles are what a backup has besides the files of a SoftHSM token.
var archivedFiles = []string{archivedConfig, archivedDatabase, archivedCA, archivedCAKey, archivedAuditKey, archivedPIN}

// withOptions gives the saved configuration with what the command line says
// instead. A module is code: it must not come with the backup.
func (r *restore) withOptions(saved *config.Config) (*config.Config, error) {
	c := *saved
	var err error
	if r.module != "" {
		if c.Token.Module, err = filepath.Abs(r.module); err != nil {
			return nil, err
		}
	}
	if r.pinFile != "" {
		c.Token.PINEnv = ""
		if c.Token.PINFile, err = filepath.Abs(r.pinFile); err != nil {
			return nil, err
		}
	}
	if r.holds(c.Token.Module) {
		return nil, fmt.Errorf("%w: it names a PKCS#11 module in %s, where nothing is but what came with it", archive.ErrBroken, r.dir)
	}
	return &c, nil
}

// holds reports whether a path leads into the directory, by whatever way.
func (r *restore) holds(path string) bool {
	in := func(path, dir string) bool { return strings.HasPrefix(path, dir+string(filepath.Separator)) }
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return in(path, r.dir) // there is no such file to load
	}
	dir, err := filepath.EvalSymlinks(r.dir)
	return err != nil || in(real, dir) || strings.HasPrefix(real, "/proc/")
}

// moved gives a configuration with the instance's own files in dir, and all else as
// it was; what was extracted of SoftHSM's says so, too.
func (r *restore) moved(saved *config.Config, dir string) (*config.Config, error) {
	c := *saved
	in := func(name string) string { return filepath.Join(dir, name) }
	c.Directory, c.Store.File, c.Audit.File = dir, in(archivedDatabase), in("audit.log")
	c.Admin.Socket = socketIn(r.dir)
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

// auditHead gives the head that the manifest names, which the key has signed that
// has signed the manifest.
func (r *restore) auditHead() (audit.Checkpoint, error) {
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

// try has everything that was extracted do what it is for.
func (r *restore) try(ctx context.Context, a *appliance.Appliance) (err error) {
	if !bytes.Equal(a.AuditPublicKey(), r.manifest.PublicKey) {
		return fmt.Errorf("%w: the database in it is of another one", archive.ErrForeign)
	}
	r.proof, err = a.Prove(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !r.acceptLostKeys:
		return fmt.Errorf("%w\nThe other %d keys sign. Take another backup; or, to go on without these, add --accept-lost-keys", err, r.proof.Keys)
	case err != nil:
		r.options.Logger.Warn("going on without keys that do not sign", "reason", err)
	}
	opened, err := a.ContinueLog(r.head, r.keepDueKeys)
	r.wrote = r.ownLog && opened
	return err
}

// place moves everything to where it belongs. The configuration is last: without
// it there is no instance. A restore that is killed before that leaves its own
// directory, by which the next one knows what is to be begun anew.
func (r *restore) place(c *config.Config) error {
	if err := os.Rename(r.staging(archivedConfig), r.staging(savedConfig)); err != nil {
		return err
	}
	entries, err := os.ReadDir(r.staging(""))
	if err != nil {
		return err
	}
	text, err := c.Marshal()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(r.staging(e.Name()), filepath.Join(r.dir, e.Name())); err != nil {
			return err
		}
	}
	if err := durable.SyncDir(r.dir); err != nil {
		return err
	}
	if err := durable.Write(r.staging(archivedConfig), text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(r.staging(archivedConfig), filepath.Join(r.dir, archivedConfig)); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(r.dir), os.Remove(r.staging("")))
}

// savedConfig is the configuration as it was in the backup.
const savedConfig = archivedConfig + ".backup"

// placed are the names that place gives, but for the audit log's, which may be the
// operator's own, and the configuration's, with which all is there.
var placed = []string{savedConfig, archivedDatabase, archivedCA, archivedCAKey, archivedAuditKey, archivedPIN, archivedToken, "guarded"}

// enter makes the directory, or sees that it is empty but for files of the audit
// log and what a restore leaves that was killed, and takes it for this process.
// leave removes what there is of one that failed.
func (r *restore) enter() (leave func(error) error, err error) {
	if r.dir, err = filepath.Abs(r.dir); err != nil {
		return nil, err
	}
	made, err := r.look()
	if err != nil {
		return nil, err
	}
	unlock, err := appliance.LockDirectory(r.dir)
	if err != nil {
		return nil, err
	}
	if _, err := r.look(); err != nil { // another restore may have ended before this one had the lock
		return nil, errors.Join(err, unlock())
	}
	leave = func(err error) error {
		if err != nil {
			err = errors.Join(err, r.clear(made))
		}
		return errors.Join(err, unlock())
	}
	return leave, r.clear(false)
}

// look reports whether the directory has to be made, and an error if something is in
// it that is not a restore's.
func (r *restore) look() (missing bool, err error) {
	there, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	for _, e := range there {
		if !r.mayBeThere(e.Name()) {
			return false, fmt.Errorf("%s is not empty: there is %s. A backup is restored into a place of its own: name another, or move what is there away", r.dir, e.Name())
		}
		r.ownLog = r.ownLog || isLog(e.Name())
	}
	return false, err
}

// mayBeThere says what a restore takes for its own, or leaves alone. What a killed
// one has placed is there only together with its directory.
func (r *restore) mayBeThere(name string) bool {
	if name == "lock" || name == "restoring" || isLog(name) {
		return true
	}
	_, err := os.Stat(r.staging(""))
	return err == nil && slices.Contains(placed, name)
}

func isLog(name string) bool { return name == "audit.log" || strings.HasPrefix(name, "audit.log.") }

// clear removes everything of a restore, and leaves the lock and the log of the
// operator's.
func (r *restore) clear(made bool) error {
	if made {
		return os.RemoveAll(r.dir)
	}
	now, err := os.ReadDir(r.dir)
	for _, e := range now {
		if e.Name() != "lock" && e.Name() != "restoring" && !(r.ownLog && isLog(e.Name())) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(r.dir, e.Name())))
		}
	}
	// Last: by it a restore that is killed here is known.
	return errors.Join(err, os.RemoveAll(r.staging("")))
}

// report says what works, and what is to be done next.
func (r *restore) report(cmd *cobra.Command, c *config.Config) {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Restored in %s: %s, as it was at %s.\n", r.dir, plain(r.manifest.Instance), r.manifest.Time.UTC().Format("2006-01-02 15:04:05 UTC"))
	fmt.Fprintf(out, "Keys that have signed: %d, with %d versions. Access keys unsealed: %d. Client keys: %d. The audit log goes on behind line %d.\n",
		r.proof.Keys, r.proof.Versions, r.proof.AccessKeys, r.proof.ClientKeys, r.head.Seq)
	if c.Token.SoftHSMConf == filepath.Join(r.dir, archivedSoftHSMConf) {
		fmt.Fprintf(out, "The SoftHSM token is in %s, its user PIN in %s: the configuration names them.\n", filepath.Join(r.dir, archivedToken), c.Token.PINFile)
	}
	if r.publicKey == "" {
		fmt.Fprintln(out, "That it is your instance's was not checked: that takes --audit-public-key.")
	}
	switch {
	case r.proof.Due > 0 && r.keepDueKeys:
		fmt.Fprintf(out, "Keys that were to be deleted by now and are enabled again: %d.\n", r.proof.Due)
	case r.proof.Due > 0:
		fmt.Fprintf(out, "Keys that are deleted when it starts, for their time has come since the backup was made: %d. With --keep-due-keys restore keeps them.\n", r.proof.Due)
	}
	if os.Getuid() == 0 {
		fmt.Fprintf(out, "Everything in %s belongs to root: if the gateway runs as another user, give it to that user (chown -R).\n", r.dir)
	}
	if err := c.Check(); err != nil {
		fmt.Fprintf(out, "Before it can be served:\n%v\n", err)
	}
	fmt.Fprintf(out, "Nothing else may serve the same instance. Start it with\n\n  kmsgate serve --config %s\n", shellQuote(filepath.Join(r.dir, archivedConfig)))
}

func (r *restore) identities() ([]archive.Identity, error) {
	if r.passphrase != "" {
		p, err := readPassphrase(r.passphrase)
		if err != nil {
			return nil, err
		}
		i, err := archive.PassphraseIdentity(p)
		return []archive.Identity{i}, err
	}
	text, err := readSecretFile(r.identity)
	if err != nil {
		return nil, err
	}
	identities, err := archive.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.identity, err)
	}
	return identities, nil
}

// trusted is the key that has to have signed the backup; nil: the one in it.
func (r *restore) trusted() (audit.PublicKey, error) {
	if r.publicKey == "" {
		return nil, nil
	}
	text, err := readSmallFile(r.publicKey)
	if err != nil {
		return nil, err
	}
	key, err := audit.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.publicKey, err)
	}
	return key, nil
}

// openBackup opens the file, or the standard input. Reading it ends when the
// command is told to.
func openBackup(cmd *cobra.Command, path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	return auditlog.OpenFile(cmd.Context(), path)
}
