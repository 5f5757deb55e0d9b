package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/internal/printable"
)

func (a *releaser) verifySignatureCommand() *cobra.Command {
	var f signFlags
	var signatureFile string
	cmd := &cobra.Command{
		Use: "verify --key KEY FILE…", Short: "Verify signatures of files",
		Long: `Verify signatures of files, which kmsgate sign or a program made. The gateway decides
(AsymmetricVerify); give it the same --version, --algorithm and --sm2-id as for signing.

The exit status is 1 if a signature is not valid.`,
		Example: `  kmsgate verify --config kmsgate.yaml --key alias/release app.tar.gz --suffix .sig
  kmsgate verify --config kmsgate.yaml --key alias/release app.tar.gz --signature app.sig --encoding raw`,
		Args: cli.Arguments("[FILE…]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.verifySignatures(cmd, &f, args, signatureFile)
		},
	}
	f.addTo(a.App, cmd, false)
	cmd.Flags().StringVar(&signatureFile, "signature", "", "`FILE` with the signature of the one FILE or digest")
	cmd.MarkFlagsOneRequired("signature", "suffix")
	cmd.MarkFlagsMutuallyExclusive("signature", "suffix")
	return cmd
}

// A verified is the result for one signature, for programs.
type verified struct {
	File                string `json:",omitempty"`
	KeyId, KeyVersionId string
	Algorithm           string
	Valid               bool
	Reason              string `json:",omitempty"` // why the file holds no signature of this key's form
}

func (v verified) String() string {
	text := printable.Text(cmp.Or(v.File, "the digest")) + ": "
	switch {
	case v.Valid:
		return text + "valid\n"
	case v.Reason != "":
		return text + "NOT VALID: " + printable.Text(v.Reason) + "\n"
	default:
		return text + "NOT VALID\n"
	}
}

// errNotValid means that a signature is not valid.
var errNotValid = errors.New("a signature is not valid")

func (a *releaser) verifySignatures(cmd *cobra.Command, f *signFlags, args []string, signatureFile string) error {
	if err := f.check(cmd, args); err != nil {
		return err
	}
	if len(args) > 1 && signatureFile != "" {
		return cli.Usagef("--signature is for one FILE: give --suffix for several")
	}
	return f.find(a.App, cmd, func(c signer.Client, k signer.Key) error {
		return a.verifyWith(cmd, c, k, f, args, signatureFile)
	})
}

func (a *releaser) verifyWith(cmd *cobra.Command, c signer.Client, k signer.Key, f *signFlags, args []string, signatureFile string) error {
	var all []verified
	var text strings.Builder
	err := f.subjects(cmd, k, args, func(name string, digest []byte) error {
		path := signatureFile
		if path == "" {
			path = name + f.suffix
		}
		encoded, err := cli.ReadSmallFile(path)
		if err != nil {
			return cli.UsageError(err)
		}
		v := verified{File: name, KeyId: k.KeyId, KeyVersionId: k.KeyVersionId, Algorithm: string(k.Algorithm)}
		if signature, err := f.form().Decode(k, encoded); err != nil {
			v.Reason = fmt.Sprintf("%s: %v", path, err)
		} else if v.Valid, err = c.Verify(cmd.Context(), k, digest, signature); err != nil {
			return fmt.Errorf("verifying %s: %w", cmp.Or(name, "the digest"), err)
		}
		all = append(all, v)
		text.WriteString(v.String())
		return nil
	})
	if all != nil {
		err = errors.Join(a.Print(cmd, cli.View{Value: all, Text: text.String()}), err)
	}
	for _, v := range all {
		if !v.Valid {
			return errors.Join(err, errNotValid)
		}
	}
	return err
}

// confirmReplace asks before existing signature files are replaced.
func confirmReplace(app *cli.App, cmd *cobra.Command, files []string, suffix string) error {
	var existing []string
	for _, name := range files {
		if _, err := os.Lstat(name + suffix); err == nil {
			existing = append(existing, printable.Text(name+suffix))
		}
	}
	if existing == nil {
		return nil
	}
	return app.Confirm(cmd, fmt.Sprintf("This replaces %s.", strings.Join(existing, ", ")))
}
