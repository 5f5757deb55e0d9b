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

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/clientkey"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

func (a *admin) clientKeyCommand() *cobra.Command {
	clientKeyId := func() *parameter { return &parameter{name: "ClientKeyId", kind: "ID"} }
	return family("clientkey", "Administer client keys, with which programs sign their requests to a KMS instance", `Administer client keys, with which programs that use a KMS instance's own SDK sign
their requests. What a client key may do is up to its application access point
(kmsgate aap).

To replace one without an interruption create a second one, give it to the
program, and delete the first.`,
		a.commands(createClientKeyTask(), task{
			verb: "list", short: "List client keys",
			example: "kmsgate clientkey list\nkmsgate clientkey list --aap billing -o json",
			flags:   []*parameter{aapFlag("only those of this access point", false)},
			calls:   listed("ListClientKeys", func(l clientKeys) []clientKeyItem { return l.ClientKeys }),
		}, task{
			verb: "show", short: "Print a client key's certificate, in PEM",
			example:   "kmsgate clientkey show KAAP.4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11\nkmsgate clientkey show KAAP.4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11 -o json",
			arguments: []*parameter{clientKeyId()},
			calls:     answered("GetClientKey", func(k clientKey) view { return view{value: k, text: lines(k.PublicKeyData)} }),
		}, task{
			verb: "delete", short: "Delete a client key for good",
			example:   "kmsgate clientkey delete KAAP.4c5f0c5e-3f5e-4f5a-9d3e-6a3a4f0e2b11",
			arguments: []*parameter{clientKeyId()},
			calls:     done("DeleteClientKey", "The client key {ClientKeyId} is deleted."),
		})...)
}

func aapFlag(usage string, required bool) *parameter {
	return &parameter{name: "AapName", flag: "aap", kind: "NAME", usage: usage, required: required}
}

func createClientKeyTask() task {
	return task{
		verb: "create", short: "Create a client key, and write it to a file, once",
		long: `Create a client key, and write it to a file as KMS's SDKs read it: JSON with its id
and its private key, under a password. The private key cannot be had again.

Without --password-file the password is made up, and written to a file beside it.
Both files are for their owner only, and none is overwritten.`,
		example: `kmsgate clientkey create --aap billing
kmsgate clientkey create --aap billing --out billing.json --password-file password.txt
kmsgate clientkey create --aap billing --not-before 2027-01-01T00:00:00Z --not-after 2028-01-01T00:00:00Z`,
		flags: []*parameter{
			aapFlag("the access point whose client key it shall be", true),
			{name: outOption, flag: "out", kind: "FILE", read: readOut,
				usage: "the file, or the directory for clientKey_<id>.json and clientKey_<id>_Password.txt (default: this one)"},
			{name: "Password", flag: passwordFlag, kind: "FILE", read: readPassword, usage: "a file with the password; - is the standard input"},
			{name: "NotBefore", flag: "not-before", kind: "TIME", usage: "from when on it is good, as 2027-01-01T00:00:00Z, with --not-after (default: now)"},
			{name: "NotAfter", flag: "not-after", kind: "TIME", usage: "until when it is good, with --not-before (default: for five years)"},
		},
		groups: flagGroups{together: []string{"not-before", "not-after"}},
		calls:  createClientKey,
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
	text, err := readDocument(cmd, values)
	return strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r"), err
}

// createClientKey creates a client key and writes it down. One that could not be
// written down is deleted: nobody could use it.
func createClientKey(ctx context.Context, c caller, parameters map[string]string) (view, error) {
	out, password := parameters[outOption], ""
	delete(parameters, outOption)
	if _, ok := parameters["Password"]; !ok {
		password = clientkey.NewPassword()
		parameters["Password"] = password
	}
	var created kms.CreateClientKeyResponse
	if err := c.Call(ctx, "CreateClientKey", parameters, &created); err != nil {
		return view{}, err
	}
	written, err := clientkey.Write(created, out, password)
	if err == nil {
		return view{value: written, rows: viewOf(written).rows, hint: "Give the files to the program only, and the password by another way than the key."}, nil
	}
	// A signal that ended the writing must not keep the key.
	deleteErr := c.Call(context.WithoutCancel(ctx), "DeleteClientKey", map[string]string{"ClientKeyId": created.ClientKeyId}, nil)
	if deleteErr != nil {
		return view{}, fmt.Errorf("the client key was created and could not be written down; nobody has it: delete it with kmsgate clientkey delete %s. (%w)",
			plain(created.ClientKeyId), errors.Join(err, deleteErr))
	}
	return view{}, fmt.Errorf("the client key could not be written down, and is deleted again: %w", err)
}

type clientKeyItem struct {
	ClientKeyId string
	AapName     string
	CreateTime  string
	NotBefore   string
	NotAfter    string
}

type clientKeys struct{ ClientKeys []clientKeyItem }

type clientKey struct {
	clientKeyItem
	KeyAlgorithm  string
	KeyOrigin     string
	PublicKeyData string
}
