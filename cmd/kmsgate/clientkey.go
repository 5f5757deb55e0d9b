package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/clientkey"
	"github.com/kmsgate/kmsgate/internal/printable"
)

func (a *admin) clientKeyCommand() *cobra.Command {
	clientKeyId := func() *cli.Parameter { return &cli.Parameter{Name: "ClientKeyId", Kind: "ID", Complete: clientKeyIds} }
	return a.Family("clientkey", "Administer client keys, with which programs sign requests to a KMS instance", `Administer client keys, with which programs that use the SDK of KMS instances sign
their requests. Its application access point decides what a client key may do
(kmsgate aap).

To replace one without interruption: create a second one, give it to the program, restart
the program, and delete the first.`,
		a.Commands(createClientKeyTask(), cli.Task{
			Verb: "list", Short: "List client keys",
			Example: "kmsgate clientkey list\nkmsgate clientkey list --aap billing -o json",
			Flags:   []*cli.Parameter{aapFlag("only client keys of this access point", false)},
			Calls: cli.Listed("ListClientKeys", func(l kms.ListClientKeysResponse) []kms.ClientKeyItem { return l.ClientKeys },
				"ClientKeyId", "AapName", "CreateTime", "NotBefore", "NotAfter"),
		}, cli.Task{
			Verb: "show", Short: "Print a client key's certificate, in PEM",
			Example:   "kmsgate clientkey show KAAP.4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11\nkmsgate clientkey show KAAP.4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11 -o json",
			Arguments: []*cli.Parameter{clientKeyId()},
			Calls: cli.Answered("GetClientKey", func(k kms.GetClientKeyResponse) cli.View {
				shown := cli.ViewOf(k, "ClientKeyId", "AapName", "CreateTime", "NotBefore", "NotAfter", "KeyAlgorithm", "KeyOrigin", "PublicKeyData")
				return cli.View{Value: shown.Value, Text: printable.Lines(k.PublicKeyData)}
			}),
		}, cli.Task{
			Verb: "delete", Short: "Delete a client key permanently",
			Example:   "kmsgate clientkey delete KAAP.4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11",
			Arguments: []*cli.Parameter{clientKeyId()},
			Confirm:   cli.Existing("GetClientKey", "ClientKeyId", "ClientKeyId", "This deletes client key {ClientKeyId}. The gateway then refuses programs that still use it."),
			Calls:     cli.Done("DeleteClientKey", "Client key {ClientKeyId} was deleted."),
		})...)
}

func aapFlag(usage string, required bool) *cli.Parameter {
	return &cli.Parameter{Name: "AapName", Flag: "aap", Kind: "NAME", Usage: usage, Required: required, Complete: accessPointNames}
}

func createClientKeyTask() cli.Task {
	return cli.Task{
		Verb: "create", Short: "Create a client key, and write it to a file once",
		Long: `Create a client key, and write it to a file in the form that KMS's SDKs read: JSON with
its id and its private key, which a password protects. The private key cannot be shown
again.

Without --password-file, the command writes a random password to a second file. Only
their owner can read the files. The command overwrites no existing file.`,
		Example: `kmsgate clientkey create --aap billing
kmsgate clientkey create --aap billing --out billing.json --password-file password.txt
kmsgate clientkey create --aap billing --not-before 2027-01-01T00:00:00Z --not-after 2028-01-01T00:00:00Z`,
		Flags: []*cli.Parameter{
			aapFlag("the access point that the client key belongs to", true),
			{Name: outOption, Flag: "out", Kind: "FILE", Read: readOut,
				Usage: "the file, or the directory for clientKey_<id>.json and clientKey_<id>_Password.txt (default: the current one)"},
			{Name: "Password", Flag: passwordFlag, Kind: "FILE", Read: readPassword, Usage: "a file with the password; - means standard input"},
			{Name: "NotBefore", Flag: "not-before", Kind: "TIME", Usage: "the start of its validity, such as 2027-01-01T00:00:00Z; needs --not-after (default: now)"},
			{Name: "NotAfter", Flag: "not-after", Kind: "TIME", Usage: "the end of its validity; needs --not-before (default: in five years)"},
		},
		Groups: cli.FlagGroups{Together: []string{"not-before", "not-after"}},
		Calls:  createClientKey,
	}
}

// outOption is the parameter with the path of the files.
const outOption = "Out"

// passwordFlag names a file with a password. With it, no password file is written.
const passwordFlag = "password-file"

// readOut refuses, before a key is created, a path where no file can be created.
func readOut(cmd *cobra.Command, values []string) (string, error) {
	out := values[0]
	if info, err := os.Stat(out); err == nil && info.IsDir() {
		return out, nil
	}
	if err := isDirectory(filepath.Dir(out)); err != nil {
		return "", err
	}
	files := []string{out}
	if !cmd.Flag(passwordFlag).Changed {
		files = append(files, clientkey.PasswordPath(out))
	}
	for _, path := range files {
		switch _, err := os.Lstat(path); {
		case err == nil:
			return "", fmt.Errorf("%s exists and is not overwritten: give another name with --out", path)
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
	}
	return out, nil
}

// isDirectory returns an error if path is no directory. The error names the first element
// of path that is not a directory.
func isDirectory(path string) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case errors.Is(err, unix.ENOTDIR):
		return isDirectory(filepath.Dir(path))
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("directory %s does not exist: create it first", path)
	}
	return err
}

// readPassword reads a password from a file, without the line break at its end.
func readPassword(cmd *cobra.Command, values []string) (string, error) {
	text, err := cli.ReadDocument(cmd, values)
	return strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r"), err
}

// createClientKey creates a client key and writes its file. If writing fails it deletes the
// key: nobody could use it.
func createClientKey(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	out, password := parameters[outOption], ""
	delete(parameters, outOption)
	if _, ok := parameters["Password"]; !ok {
		password = clientkey.NewPassword()
		parameters["Password"] = password
	}
	var created kms.CreateClientKeyResponse
	if err := c.Call(ctx, "CreateClientKey", parameters, &created); err != nil {
		return cli.View{}, err
	}
	written, err := clientkey.Write(created, out, password)
	if err == nil {
		return cli.View{Value: written, Rows: cli.ViewOf(written).Rows, Next: "Give the files to the program only, and send the password and the key by different ways."}, nil
	}
	// The key must go even if a signal ended the writing.
	deleteErr := c.Call(context.WithoutCancel(ctx), "DeleteClientKey", map[string]string{"ClientKeyId": created.ClientKeyId}, nil)
	if deleteErr != nil {
		return cli.View{}, fmt.Errorf("client key %s was created, but its file could not be written, so nobody can use it: run kmsgate clientkey delete %[1]s (%w)",
			printable.Text(created.ClientKeyId), errors.Join(err, deleteErr))
	}
	return cli.View{}, fmt.Errorf("writing the client key's file (the client key is deleted again): %w", err)
}
