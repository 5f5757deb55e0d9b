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
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/clientkey"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

func (a *admin) clientKeyCommand() *cobra.Command {
	clientKeyId := func() *cli.Parameter { return &cli.Parameter{Name: "ClientKeyId", Kind: "ID"} }
	return cli.Family("clientkey", "Administer client keys, with which programs sign their requests to a KMS instance", `Administer client keys, with which programs that use a KMS instance's own SDK sign
their requests. What a client key may do is up to its application access point
(kmsgate aap).

To replace one without an interruption create a second one, give it to the
program, and delete the first.`,
		a.Commands(createClientKeyTask(), cli.Task{
			Verb: "list", Short: "List client keys",
			Example: "kmsgate clientkey list\nkmsgate clientkey list --aap billing -o json",
			Flags:   []*cli.Parameter{aapFlag("only those of this access point", false)},
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
			Verb: "delete", Short: "Delete a client key for good",
			Example:   "kmsgate clientkey delete KAAP.4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11",
			Arguments: []*cli.Parameter{clientKeyId()},
			Calls:     cli.Done("DeleteClientKey", "The client key {ClientKeyId} is deleted."),
		})...)
}

func aapFlag(usage string, required bool) *cli.Parameter {
	return &cli.Parameter{Name: "AapName", Flag: "aap", Kind: "NAME", Usage: usage, Required: required}
}

func createClientKeyTask() cli.Task {
	return cli.Task{
		Verb: "create", Short: "Create a client key, and write it to a file, once",
		Long: `Create a client key, and write it to a file as KMS's SDKs read it: JSON with its id
and its private key, under a password. The private key cannot be shown again.

Without --password-file the password is made up, and written to a file beside it.
Both files are for their owner only, and none is overwritten.`,
		Example: `kmsgate clientkey create --aap billing
kmsgate clientkey create --aap billing --out billing.json --password-file password.txt
kmsgate clientkey create --aap billing --not-before 2027-01-01T00:00:00Z --not-after 2028-01-01T00:00:00Z`,
		Flags: []*cli.Parameter{
			aapFlag("the access point whose client key it shall be", true),
			{Name: outOption, Flag: "out", Kind: "FILE", Read: readOut,
				Usage: "the file, or the directory for clientKey_<id>.json and clientKey_<id>_Password.txt (default: this one)"},
			{Name: "Password", Flag: passwordFlag, Kind: "FILE", Read: readPassword, Usage: "a file with the password; - is the standard input"},
			{Name: "NotBefore", Flag: "not-before", Kind: "TIME", Usage: "from when on it is good, as 2027-01-01T00:00:00Z, with --not-after (default: now)"},
			{Name: "NotAfter", Flag: "not-after", Kind: "TIME", Usage: "until when it is good, with --not-before (default: for five years)"},
		},
		Groups: cli.FlagGroups{Together: []string{"not-before", "not-after"}},
		Calls:  createClientKey,
	}
}

// outOption is where the files shall be.
const outOption = "Out"

// passwordFlag gives a password, which is not made up and not written then.
const passwordFlag = "password-file"

// readOut refuses, before anything is made, a place where nothing can be.
func readOut(cmd *cobra.Command, values []string) (string, error) {
	out := values[0]
	if info, err := os.Stat(out); err == nil && info.IsDir() {
		return out, nil
	}
	if err := isDirectory(filepath.Dir(out)); err != nil {
		return "", err
	}
	files := []string{out}
	if !cmd.Flag(passwordFlag).Changed { // otherwise none is written
		files = append(files, clientkey.PasswordPath(out))
	}
	for _, path := range files {
		switch _, err := os.Lstat(path); {
		case err == nil:
			return "", fmt.Errorf("%s is there already, and is not overwritten", path)
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
	}
	return out, nil
}

// isDirectory refuses what is no directory, and names the first on the way to it
// that is none.
func isDirectory(path string) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%s is no directory", path)
	case errors.Is(err, unix.ENOTDIR):
		return isDirectory(filepath.Dir(path))
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no directory %s: make it first", path)
	}
	return err
}

// readPassword reads a password from a file, in which a line's end is none of it.
func readPassword(cmd *cobra.Command, values []string) (string, error) {
	text, err := cli.ReadDocument(cmd, values)
	return strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r"), err
}

// createClientKey creates a client key and writes it down. One that could not be
// written down is deleted: nobody could use it.
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
		return cli.View{Value: written, Rows: cli.ViewOf(written).Rows, Hint: "Give the files to the program only, and the password by another way than the key."}, nil
	}
	// A signal that ended the writing must not keep the key.
	deleteErr := c.Call(context.WithoutCancel(ctx), "DeleteClientKey", map[string]string{"ClientKeyId": created.ClientKeyId}, nil)
	if deleteErr != nil {
		return cli.View{}, fmt.Errorf("the client key was created, but writing its file failed, so nobody has it: delete it with kmsgate clientkey delete %s. (%w)",
			printable.Text(created.ClientKeyId), errors.Join(err, deleteErr))
	}
	return cli.View{}, fmt.Errorf("the client key could not be written down, and is deleted again: %w", err)
}
