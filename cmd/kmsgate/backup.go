package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/internal/secret"
)

// backupFlags are the flags of kmsgate backup.
type backupFlags struct {
	recipients []string
	passphrase string // the file's path
	yes        bool
}

func (a *operator) backupCommand() *cobra.Command {
	var b backupFlags
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write an encrypted backup of a gateway, running or stopped",
		Long: `Write an encrypted backup of a gateway, running or stopped. It holds:

  - the database with the sealed keys, and the configuration
  - the CA that kmsgate init made, and the head of the audit log
  - a SoftHSM token with its PIN

It does not hold the token of an HSM and its PIN, a certificate of your own, or the audit
log itself. docs/backup.md has a drill.

The backup shows one moment: the gateway continues to sign, but creates and destroys no
key pair until the backup is complete. FILE appears when it is complete; - means
standard output. It is an age file: kmsgate restore and the program age can open it.`,
		Example: `  kmsgate backup /mnt/safe/kmsgate.age --config kmsgate.yaml --recipient age1…   # of age-keygen
  kmsgate backup - --passphrase-file passphrase | ssh elsewhere 'cat > kmsgate.age'`,
		Args: cli.Arguments("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.backup(cmd, b, args[0]) },
	}
	a.Dialer.Register(cmd)
	cmd.Flags().StringArrayVar(&b.recipients, "recipient", nil, "age `RECIPIENT` who can open it; can be repeated")
	cmd.Flags().StringVar(&b.passphrase, "passphrase-file", "", "`FILE` with the passphrase that opens it")
	cmd.Flags().BoolVarP(&b.yes, "yes", "y", false, "replace FILE without asking")
	cmd.MarkFlagsOneRequired("recipient", "passphrase-file") // a backup holds keys: it is always encrypted
	cmd.MarkFlagsMutuallyExclusive("recipient", "passphrase-file")
	return cmd
}

func (a *operator) backup(cmd *cobra.Command, b backupFlags, path string) (err error) {
	write, err := b.writer()
	if err != nil {
		return err
	}
	info, statErr := os.Lstat(path)
	if path != "-" && statErr == nil && !info.Mode().IsRegular() {
		return cli.Usagef("%q is not a regular file: give another name, or - for the standard output", path)
	}
	if path != "-" && statErr == nil {
		if err := checkBackup(path); err != nil {
			return err
		}
		if !b.yes {
			if err := a.Confirm(cmd, fmt.Sprintf("This replaces %s.", printable.Text(path))); err != nil {
				return err
			}
		}
	}
	c, err := a.Dialer.Dial(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	count := new(counter)
	writeTo := func(w io.Writer) error { return write(cmd.Context(), c, io.MultiWriter(w, count)) }
	if path == "-" {
		err = writeTo(cmd.OutOrStdout())
	} else {
		err = durable.Replace(path, 0o600, writeTo)
	}
	if err != nil {
		return fmt.Errorf("no backup was written: %w", err)
	}
	if path == "-" {
		fmt.Fprintf(cmd.ErrOrStderr(), backupSentence, count.n, "the standard output")
		return nil
	}
	written := struct {
		File  string
		Bytes int64
	}{path, count.n}
	return a.Print(cmd, cli.View{Value: written, Text: fmt.Sprintf(backupSentence, count.n, printable.Text(path))})
}

// checkBackup refuses to replace a file that is no backup, such as the instance's own database.
func checkBackup(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, len(archive.Magic))
	if n, err := io.ReadFull(f, head); n > 0 && (err != nil || string(head) != archive.Magic) {
		return cli.Usagef("%q exists and is not a backup: give another name", path)
	}
	return nil
}

// backupSentence is printed after a backup, with its size and its place.
const backupSentence = "Wrote a backup of %d bytes to %s. " +
	"It does not hold the token of an HSM and its PIN, a certificate of your own, or the audit log.\n"

// writer reads the files that the flags name, and returns a function that writes the backup.
func (b backupFlags) writer() (func(ctx context.Context, c target.Caller, w io.Writer) error, error) {
	if b.passphrase == "" {
		_, err := archive.ParseRecipients(b.recipients...)
		err = cli.UsageError(err)
		return func(ctx context.Context, c target.Caller, w io.Writer) error {
			return backup.Write(ctx, c, w, b.recipients)
		}, err
	}
	passphrase, err := readPassphrase(b.passphrase)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, c target.Caller, w io.Writer) error {
		return backup.WriteSealed(ctx, c, w, passphrase)
	}, nil
}

// readPassphrase reads a passphrase from a file that only its owner can access.
func readPassphrase(path string) (secret.Text, error) {
	text, err := cli.ReadSecretFile(path)
	if err != nil {
		return "", err
	}
	p, err := archive.ParsePassphrase(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// A counter counts the bytes that are written to it.
type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}
