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
	"github.com/kmsgate/kmsgate/internal/secret"
)

// backupFlags are what a command line says of a backup.
type backupFlags struct {
	recipients []string
	passphrase string // the file
	force      bool
}

func backupCommand(d cli.Dialer) *cobra.Command {
	var b backupFlags
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write an encrypted backup of a gateway, whether it runs or not",
		Long: `Write an encrypted backup of a gateway, whether it runs or not: the database with
the sealed keys, the configuration, the CA that init has made, the head of the
audit log and, if it is of SoftHSM, the token with its PIN. It is of one moment: while
it is made no key pair is made or destroyed. Signing goes on.

Not in it are the token of an HSM and its PIN, a certificate of your own, and the
audit log itself. docs/backup.md has a drill.

FILE is there when it is complete. With - it is the standard output. It is an age
file: kmsgate restore opens it, and so does the program age.`,
		Example: `  kmsgate backup /mnt/safe/kmsgate.age --config kmsgate.yaml --recipient age1…   # of age-keygen
  kmsgate backup - --passphrase-file passphrase | ssh elsewhere 'cat > kmsgate.age'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return b.run(cmd, d, args[0]) },
	}
	d.Register(cmd)
	cmd.Flags().StringArrayVar(&b.recipients, "recipient", nil, "who can open it: an age `RECIPIENT`; can be repeated")
	cmd.Flags().StringVar(&b.passphrase, "passphrase-file", "", "the `FILE` with the passphrase that opens it")
	cmd.Flags().BoolVar(&b.force, "force", false, "replace FILE if it exists")
	cmd.MarkFlagsOneRequired("recipient", "passphrase-file") // it holds what signs: there is none that is not encrypted
	cmd.MarkFlagsMutuallyExclusive("recipient", "passphrase-file")
	return cmd
}

func (b backupFlags) run(cmd *cobra.Command, d cli.Dialer, path string) (err error) {
	write, err := b.writer()
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); path != "-" && !b.force && err == nil {
		return fmt.Errorf("%s exists: give another name, or --force to replace it", path)
	}
	c, err := d.Dial(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	count := new(counter)
	to := func(w io.Writer) error { return write(cmd.Context(), c, io.MultiWriter(w, count)) }
	if path == "-" {
		err = to(cmd.OutOrStdout())
	} else {
		err = durable.Replace(path, 0o600, to)
	}
	if err != nil {
		return fmt.Errorf("there is no backup: %w", err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "A backup of %d bytes is written. Not in it: the token of an HSM and its PIN, a certificate of your own, the audit log.\n", count.n)
	return nil
}

// writer reads what the flags name, and returns what writes the backup.
func (b backupFlags) writer() (func(ctx context.Context, c target.Caller, w io.Writer) error, error) {
	if b.passphrase == "" {
		_, err := archive.ParseRecipients(b.recipients...)
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

// readPassphrase reads a file that is its owner's alone.
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

// A counter counts what is written.
type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}
