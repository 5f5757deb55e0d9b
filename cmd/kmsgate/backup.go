package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup/archive"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/internal/secret"
)

// A backup is what a command line says of one.
type backup struct {
	recipients []string
	passphrase string // the file
	force      bool
}

func backupCommand(d dialer) *cobra.Command {
	var b backup
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
	d.register(cmd)
	cmd.Flags().StringArrayVar(&b.recipients, "recipient", nil, "who can open it: an age `RECIPIENT`; can be repeated")
	cmd.Flags().StringVar(&b.passphrase, "passphrase-file", "", "the `FILE` with the passphrase that opens it")
	cmd.Flags().BoolVar(&b.force, "force", false, "replace FILE if it exists")
	cmd.MarkFlagsOneRequired("recipient", "passphrase-file") // it holds what signs: there is none that is not encrypted
	cmd.MarkFlagsMutuallyExclusive("recipient", "passphrase-file")
	return cmd
}

func (b backup) run(cmd *cobra.Command, d dialer, path string) (err error) {
	write, err := b.writer()
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); path != "-" && !b.force && err == nil {
		return fmt.Errorf("%s exists: give another name, or --force to replace it", path)
	}
	c, err := d.dial(cmd)
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

// writer reads what the flags name, and gives what writes the backup.
func (b backup) writer() (func(ctx context.Context, c caller, w io.Writer) error, error) {
	if b.passphrase == "" {
		_, err := archive.ParseRecipients(b.recipients...)
		return func(ctx context.Context, c caller, w io.Writer) error { return stream(ctx, c, b.recipients, w) }, err
	}
	passphrase, err := readPassphrase(b.passphrase)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, c caller, w io.Writer) error { return streamSealed(ctx, c, passphrase, w) }, nil
}

func stream(ctx context.Context, c caller, recipients []string, w io.Writer) error {
	parameters := make(map[string]string)
	for i, r := range recipients {
		parameters[fmt.Sprintf("Recipients.%d", i+1)] = r
	}
	return c.Stream(ctx, "CreateBackup", parameters, w)
}

// streamSealed encrypts with a passphrase on this side: the gateway never sees
// it, and what it sends is encrypted too.
func streamSealed(ctx context.Context, c caller, passphrase secret.Text, w io.Writer) error {
	passing, err := archive.NewPassing()
	if err != nil {
		return err
	}
	r, sent := io.Pipe()
	streamed := make(chan error, 1)
	go func() {
		err := stream(ctx, c, []string{passing.Recipient()}, sent)
		streamed <- err
		sent.CloseWithError(err)
	}()
	err = passing.Seal(w, r, passphrase)
	r.CloseWithError(err)
	if streamErr := <-streamed; streamErr != nil && !errors.Is(streamErr, err) {
		return streamErr // and not what the other end made of it
	}
	return err
}

// readPassphrase reads a file that is its owner's alone.
func readPassphrase(path string) (secret.Text, error) {
	text, err := readSecretFile(path)
	if err != nil {
		return "", err
	}
	p, err := archive.ParsePassphrase(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// readSecretFile reads a small file that is nobody else's.
func readSecretFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by group or others: chmod 600 %[1]s", path)
	}
	return readSmallFile(path)
}

// A counter counts what is written.
type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}

// Archived files are called what they are called in the directory of a `kmsgate
// dev`, wherever they are.
const (
	archivedConfig   = devConfigFile
	archivedDatabase = "kmsgate.db"
	archivedCA       = "ca.pem"
	archivedCAKey    = "ca-key.pem"
	archivedAuditKey = "audit-public-key.pem"
	archivedToken    = "softhsm"

	// Of a SoftHSM that the operator has configured.
	archivedTokens      = archivedToken + "/tokens"
	archivedSoftHSMConf = archivedToken + "/softhsm2.conf"
	archivedPIN         = "pin"
)

// A source is what an archive has a file of.
type source struct {
	name    string
	path    string // of the file; or
	content []byte // of what is none here
}

// sources are the files of an instance but for the database and the
// configuration.
func (a archiver) sources() ([]source, error) {
	all := []source{{name: archivedAuditKey, path: a.Config.AuditPublicKeyFile()}}
	if t := a.Config.TLS; t.Certificate == "" {
		all = append(all, source{name: archivedCA, path: t.CAFile}, source{name: archivedCAKey, path: t.CAKeyFile})
	}
	token, err := a.tokenSources()
	return append(all, token...), err
}

// tokenSources are those of a token that is in files. Of a SoftHSM that the operator
// has configured they are the one token, which may be among others', its
// configuration, and the PIN, which is in no file if a variable has it.
func (a archiver) tokenSources() ([]source, error) {
	t := a.Config.Token
	if t.SoftHSM != "" {
		return filesUnder(t.SoftHSM, archivedToken)
	}
	files, ok, err := appliance.SoftHSMFiles(a.Config)
	if err != nil || !ok {
		return nil, err
	}
	dir, err := files.Token(t.Label, t.Serial)
	if err != nil {
		return nil, err
	}
	pin, err := a.Config.PIN()
	if err != nil {
		return nil, fmt.Errorf("the token's PIN: %w", err)
	}
	token, err := filesUnder(dir, archivedTokens+"/"+filepath.Base(dir))
	return append(token, source{name: archivedSoftHSMConf, path: files.Configuration}, source{name: archivedPIN, content: append([]byte(pin), '\n')}), err
}

// filesUnder lists a token's files, as they are called under name in an archive. Of
// one in token.softhsm SoftHSM's configuration is written at every start; what ends
// with .new is being written.
func filesUnder(dir, name string) (all []source, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".new" || d != nil && d.Name() == "softhsm2.conf" {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file, as all of a token's are", path)
		}
		rest, err := filepath.Rel(dir, path)
		all = append(all, source{name: name + "/" + filepath.ToSlash(rest), path: path})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the token's files: %w", err)
	}
	return all, nil
}
