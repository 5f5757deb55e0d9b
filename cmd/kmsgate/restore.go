package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// restoreFlags are the flags of kmsgate restore.
type restoreFlags struct {
	identity   string // the file's path
	passphrase string // the file's path
	publicKey  string // the file's path
	unverified bool
	options    backup.RestoreOptions
}

func (a *operator) restoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore FILE --target DIR",
		Short: "Restore a backup into an empty directory, and let every key sign",
		Long: `Restore a backup into an empty directory, and let every key sign.

The instance is created only after every key version has produced a valid signature and
every access key has been unsealed. DIR/kmsgate.yaml is then its configuration: the saved
one, with the instance's own files in DIR. After an error, DIR is unchanged.

With --identity, --audit-public-key must show whose backup it is: anyone who knows the
recipient can make one, and restoring it loads the module that it names. Use --unverified
instead only for a backup that never left your hands.

A SoftHSM token and its PIN are restored into DIR. A backup of an instance with an HSM is
restored beside that HSM: with the module, label and PIN file of the configuration, or
with --module and --pin-file.

The audit log continues after the head in the backup, and records the restore. If you
still have the log, first copy its files to DIR/audit.log and DIR/audit.log.*: it then
continues at their end. FILE - means standard input.`,
		Example: `  kmsgate restore kmsgate.age --target /var/lib/kmsgate --identity key.txt --audit-public-key audit.pem
  kmsgate serve --config /var/lib/kmsgate/kmsgate.yaml`,
		Args: cli.Arguments("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.restore(cmd, &f, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.options.Dir, "target", "", "`DIR` to restore into: empty, or created")
	flags.StringVar(&f.identity, "identity", "", "`FILE` with the age identity that opens the backup")
	flags.StringVar(&f.passphrase, "passphrase-file", "", "`FILE` with the passphrase that opens the backup")
	flags.StringVar(&f.publicKey, "audit-public-key", "", "`FILE` with the instance's audit public key, not from the backup, which must verify the backup's signature")
	flags.BoolVar(&f.unverified, "unverified", false, "trust the backup without --audit-public-key")
	flags.StringVar(&f.options.Module, "module", "", "`PATH` of the PKCS#11 module, if it differs from the backup's")
	flags.StringVar(&f.options.PINFile, "pin-file", "", "`FILE` with the PIN of the HSM's user, if it differs from the backup's")
	flags.BoolVar(&f.options.AcceptLostKeys, "accept-lost-keys", false, "continue although some keys do not sign; they are listed")
	flags.BoolVar(&f.options.KeepDueKeys, "keep-due-keys", false, "enable keys whose deletion fell due since the backup; otherwise the first start deletes them")
	cli.InsistOnPINFlag(flags, &f.options.InsistOnPIN)
	_ = cmd.MarkFlagRequired("target") // it was added above
	cmd.MarkFlagsOneRequired("identity", "passphrase-file")
	cmd.MarkFlagsMutuallyExclusive("identity", "passphrase-file")
	cmd.MarkFlagsMutuallyExclusive("audit-public-key", "unverified")
	return cmd
}

func (a *operator) restore(cmd *cobra.Command, f *restoreFlags, path string) (err error) {
	if f.identity != "" && f.publicKey == "" && !f.unverified {
		return cli.Usagef("whose backup is it? Anyone who knows the recipient can make one: give --audit-public-key FILE, or --unverified if it never left your hands")
	}
	if f.options.Identities, err = f.identities(); err != nil {
		return err
	}
	if f.options.Trusted, err = f.trusted(); err != nil {
		return err
	}
	file, err := openBackup(cmd, path)
	if err != nil {
		return err
	}
	defer file.Close()
	f.options.NewLogger = func(l config.Log) *slog.Logger { return l.Quiet(cmd.ErrOrStderr()) }
	restored, err := backup.Restore(cmd.Context(), file, f.options)
	if err != nil {
		return err
	}
	return a.Print(cmd, f.report(restored))
}

// A restoreReport is the result of kmsgate restore, for programs.
type restoreReport struct {
	Dir, Config, Instance      string
	BackupTime                 string
	Keys, Versions             int
	AccessKeys, ClientKeys     int
	AuditHead                  uint64
	DueKeys                    int
	Verified                   bool   // by --audit-public-key
	MistakesInTheConfiguration string `json:",omitempty"`
}

// report says what works, and what to do next.
func (f *restoreFlags) report(r *backup.Restored) cli.View {
	v := restoreReport{
		Dir: r.Dir, Config: filepath.Join(r.Dir, config.FileName), Instance: r.Manifest.Instance, BackupTime: r.Manifest.Time.UTC().Format(time.RFC3339),
		Keys: r.Verified.Keys, Versions: r.Verified.Versions, AccessKeys: r.Verified.AccessKeys, ClientKeys: r.Verified.ClientKeys,
		AuditHead: r.AuditHead.Seq, DueKeys: r.Verified.Due, Verified: f.publicKey != "",
	}
	if err := r.Config.Check(); err != nil {
		v.MistakesInTheConfiguration = err.Error()
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("Restored %s to %s, as it was at %s.", printable.Text(v.Instance), printable.Text(v.Dir), v.BackupTime)
	line("All %s of %s signed. %s and %s were unsealed. The audit log continues after line %d.",
		cli.Count(v.Versions, "version"), cli.Count(v.Keys, "key"), cli.Count(v.AccessKeys, "access key"), cli.Count(v.ClientKeys, "client key"), v.AuditHead)
	if r.TokenDir != "" {
		line("The SoftHSM token is in %s and its user PIN in %s. The configuration names both.", printable.Text(r.TokenDir), printable.Text(r.Config.Token.PINFile))
	}
	if !v.Verified {
		line("The restore did not check that this is a backup of your instance: that needs --audit-public-key.")
	}
	switch {
	case v.DueKeys > 0 && f.options.KeepDueKeys:
		line("Enabled again, although the deletion fell due since the backup: %s.", cli.Count(v.DueKeys, "key"))
	case v.DueKeys > 0:
		line("Deleted at the first start, because the deletion fell due since the backup: %s. To keep them, restore again with --keep-due-keys.", cli.Count(v.DueKeys, "key"))
	}
	if os.Getuid() == 0 {
		line("All files in %s belong to root. If the gateway runs as another user, run chown -R.", printable.Text(v.Dir))
	}
	if v.MistakesInTheConfiguration != "" {
		line("Correct these mistakes before you start it:\n%s", printable.Lines(v.MistakesInTheConfiguration))
	}
	line("Make sure that nothing else serves this instance, then start it:\n\n  kmsgate serve --config %s", printable.Shell(v.Config))
	return cli.View{Value: v, Text: b.String()}
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

// trusted returns the key that must have signed the backup, or nil for the key in it.
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

// openBackup opens the file, or the standard input, and refuses what is no backup. Reading the file
// fails once the command's context is done.
func openBackup(cmd *cobra.Command, path string) (io.ReadCloser, error) {
	input := io.NopCloser(cmd.InOrStdin())
	if path != "-" {
		file, err := auditlog.OpenFile(cmd.Context(), path)
		if err != nil {
			return nil, err
		}
		input = file
	}
	buffered := bufio.NewReader(input)
	head, err := buffered.Peek(len(archive.Magic))
	if string(head) != archive.Magic {
		return nil, errors.Join(cli.Usagef("%q is not a backup of kmsgate", path), notEOF(err), input.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{buffered, input}, nil
}

// notEOF returns err unless it only says that the input is short.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
