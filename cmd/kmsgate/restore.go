package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/gateway/audit"
)

// restoreFlags are what a command line says of a restore.
type restoreFlags struct {
	identity   string // the file
	passphrase string // the file
	publicKey  string // the file
	unverified bool
	options    backup.RestoreOptions
}

func restoreCommand() *cobra.Command {
	var f restoreFlags
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
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.options.Dir, "dir", "", "the `DIR` to restore into: empty, or made")
	flags.StringVar(&f.identity, "identity", "", "the `FILE` with the age identity that opens it")
	flags.StringVar(&f.passphrase, "passphrase-file", "", "the `FILE` with the passphrase that opens it")
	flags.StringVar(&f.publicKey, "audit-public-key", "", "the `FILE` with the instance's audit public key, kept elsewhere, which has to have signed it")
	flags.BoolVar(&f.unverified, "unverified", false, "believe the backup without --audit-public-key")
	flags.StringVar(&f.options.Module, "module", "", "the `PATH` of the PKCS#11 module, where it is another than in the backup")
	flags.StringVar(&f.options.PINFile, "pin-file", "", "the `FILE` with the PIN of the HSM's user, where it is another than in the backup")
	flags.BoolVar(&f.options.AcceptLostKeys, "accept-lost-keys", false, "go on although some keys do not sign; they are named")
	flags.BoolVar(&f.options.KeepDueKeys, "keep-due-keys", false, "enable keys again whose deletion fell due since the backup; otherwise they are deleted at the first start")
	insistOnPINFlag(cmd, &f.options.InsistOnPIN)
	_ = cmd.MarkFlagRequired("dir") // there is such a flag
	cmd.MarkFlagsOneRequired("identity", "passphrase-file")
	cmd.MarkFlagsMutuallyExclusive("identity", "passphrase-file")
	cmd.MarkFlagsMutuallyExclusive("audit-public-key", "unverified")
	return cmd
}

func (f *restoreFlags) run(cmd *cobra.Command, path string) (err error) {
	if f.identity != "" && f.publicKey == "" && !f.unverified {
		return errors.New("whose is the backup? Everybody who knows the recipient can make one: give the instance's audit public key with --audit-public-key; or --unverified, if it was in nobody else's hands")
	}
	if f.options.Identities, err = f.identities(); err != nil {
		return err
	}
	if f.options.Trusted, err = f.trusted(); err != nil {
		return err
	}
	in, err := openBackup(cmd, path)
	if err != nil {
		return err
	}
	defer in.Close()
	f.options.NewLogger = func(l config.Log) *slog.Logger { return l.Quiet(cmd.ErrOrStderr()) }
	restored, err := backup.Restore(cmd.Context(), in, f.options)
	if err != nil {
		return err
	}
	f.report(cmd.OutOrStdout(), restored)
	return nil
}

// report says what works, and what is to be done next.
func (f *restoreFlags) report(out io.Writer, r *backup.Restored) {
	fmt.Fprintf(out, "Restored in %s: %s, as it was at %s.\n", r.Dir, printable.Text(r.Manifest.Instance), r.Manifest.Time.UTC().Format("2006-01-02 15:04:05 UTC"))
	fmt.Fprintf(out, "Keys that have signed: %d, with %d versions. Access keys unsealed: %d. Client keys: %d. The audit log goes on behind line %d.\n",
		r.Verified.Keys, r.Verified.Versions, r.Verified.AccessKeys, r.Verified.ClientKeys, r.AuditHead.Seq)
	if r.TokenDir != "" {
		fmt.Fprintf(out, "The SoftHSM token is in %s, its user PIN in %s: the configuration names them.\n", r.TokenDir, r.Config.Token.PINFile)
	}
	if f.publicKey == "" {
		fmt.Fprintln(out, "That it is your instance's was not checked: that takes --audit-public-key.")
	}
	switch {
	case r.Verified.Due > 0 && f.options.KeepDueKeys:
		fmt.Fprintf(out, "Keys that were to be deleted by now and are enabled again: %d.\n", r.Verified.Due)
	case r.Verified.Due > 0:
		fmt.Fprintf(out, "Keys that are deleted when it starts, for their time has come since the backup was made: %d. With --keep-due-keys restore keeps them.\n", r.Verified.Due)
	}
	if os.Getuid() == 0 {
		fmt.Fprintf(out, "Everything in %s belongs to root: if the gateway runs as another user, give it to that user (chown -R).\n", r.Dir)
	}
	if err := r.Config.Check(); err != nil {
		fmt.Fprintf(out, "Before it can be served:\n%v\n", err)
	}
	fmt.Fprintf(out, "Nothing else may serve the same instance. Start it with\n\n  kmsgate serve --config %s\n", printable.Shell(filepath.Join(r.Dir, config.FileName)))
}

func (f *restoreFlags) identities() ([]archive.Identity, error) {
	if f.passphrase != "" {
		p, err := readPassphrase(f.passphrase)
		if err != nil {
			return nil, err
		}
		i, err := archive.PassphraseIdentity(p)
		return []archive.Identity{i}, err
	}
	text, err := cli.ReadSecretFile(f.identity)
	if err != nil {
		return nil, err
	}
	identities, err := archive.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.identity, err)
	}
	return identities, nil
}

// trusted returns the key that must have signed the backup, nil for the one in it.
func (f *restoreFlags) trusted() (audit.PublicKey, error) {
	if f.publicKey == "" {
		return nil, nil
	}
	text, err := cli.ReadSmallFile(f.publicKey)
	if err != nil {
		return nil, err
	}
	key, err := audit.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.publicKey, err)
	}
	return key, nil
}

// openBackup opens the file, or the standard input. Reading the file ends when the
// command is told to.
func openBackup(cmd *cobra.Command, path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	return auditlog.OpenFile(cmd.Context(), path)
}
