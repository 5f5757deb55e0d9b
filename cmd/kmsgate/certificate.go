package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
)

func (a *releaser) publicKeyCommand() *cobra.Command {
	var u keyUse
	format := &cli.Parameter{Flag: "format", Kind: "FORMAT", Values: []string{"pem"}, Choices: signer.Formats, Usage: "how the key is written"}
	cmd := &cobra.Command{
		Use: "public-key --key KEY", Short: "Print a public key in the format of other programs",
		Long: `Print a public key: in PEM or DER (SubjectPublicKeyInfo), as a JSON Web Key, as a line for
OpenSSH's authorized_keys, or as an Ethereum address (EC_P256K).`,
		Example: "  kmsgate public-key --config kmsgate.yaml --key alias/release\n  kmsgate public-key --config kmsgate.yaml --key alias/release --format jwk",
		Args:    cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return u.find(a.App, cmd, "", func(_ signer.Client, k signer.Key) error {
				text, err := k.PublicKey(format.Value())
				if err != nil {
					return err
				}
				if format.Value() == "der" && a.Output.Value() == cli.OutputTable {
					_, err := cmd.OutOrStdout().Write(text)
					return err
				}
				shown := struct {
					KeyId, KeyVersionId, KeySpec, Format string
					PublicKey                            []byte `json:",omitempty"` // DER
					Text                                 string `json:",omitempty"` // every other format
				}{KeyId: k.KeyId, KeyVersionId: k.KeyVersionId, KeySpec: string(k.Spec()), Format: format.Value()}
				if format.Value() == "der" {
					shown.PublicKey = text
				} else {
					shown.Text = string(text)
				}
				return a.Print(cmd, cli.View{Value: shown, Text: string(text)})
			})
		},
	}
	u.addTo(a.App, cmd, false)
	a.AddFlag(cmd, format)
	return cmd
}

// maxDays is how long a self-signed certificate can be valid: a hundred years.
const maxDays = 36500

func (a *releaser) csrCommand() *cobra.Command {
	var u keyUse
	var r signer.Request
	var selfSigned bool
	var days int
	cmd := &cobra.Command{
		Use: "csr --key KEY --subject NAME", Short: "Make a certificate request, or a self-signed certificate",
		Long: `Make a certificate request (PKCS#10) with a key of a gateway, in PEM. RSA keys sign it
with RSA_PKCS1_SHA_256, or with --pss RSA_PSS_SHA_256. With --self-signed it is a
certificate. The signature needs a user or --as-administrator, as kmsgate sign does.`,
		Example: `  kmsgate csr --config kmsgate.yaml --user release --key alias/release --subject "CN=Release,O=Example,C=CN" --usage code
  kmsgate csr --config kmsgate.yaml --user release --key alias/web --subject CN=web --name web.example --name 192.0.2.7 --self-signed --days 90`,
		Args: cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for i, usage := range r.Usages {
				if slices.Contains(r.Usages[:i], usage) {
					return cli.Usagef("--usage %q is given twice: give it once", usage)
				}
				if signer.Usages[usage] == nil {
					return cli.Usagef("--usage %q: must be one of %s", usage, strings.Join(slices.Sorted(maps.Keys(signer.Usages)), ", "))
				}
			}
			if _, err := signer.ParseSubject(r.Subject); err != nil {
				return cli.UsageError(err)
			}
			if days < 1 || days > maxDays {
				return cli.Usagef("--days %d: must be 1 to %d", days, maxDays)
			}
			return u.find(a.App, cmd, "", func(c signer.Client, k signer.Key) error {
				s, err := c.CryptoSigner(cmd.Context(), k)
				if err != nil {
					return err
				}
				var text []byte
				if selfSigned {
					text, err = r.SelfSigned(s, k, time.Now(), days)
				} else {
					text, err = r.CSR(s, k)
				}
				if err != nil {
					return advise(err)
				}
				shown := struct{ KeyId, KeyVersionId, PEM string }{k.KeyId, k.KeyVersionId, string(text)}
				return a.Print(cmd, cli.View{Value: shown, Text: string(text)})
			})
		},
	}
	u.addTo(a.App, cmd, true)
	flags := cmd.Flags()
	flags.StringVar(&r.Subject, "subject", "", "the subject's `NAME`, such as CN=Release,O=Example,C=CN")
	flags.StringArrayVar(&r.Names, "name", nil, "a DNS name, IP address, e-mail address or URI as `NAME`; can be repeated")
	flags.StringArrayVar(&r.Usages, "usage", nil, "an extended key `USAGE`: client, code, email, server or timestamp; can be repeated")
	flags.BoolVar(&r.CA, "ca", false, "the certificate may sign others")
	flags.BoolVar(&r.PSS, "pss", false, "sign with RSA_PSS_SHA_256, for RSA keys")
	flags.BoolVar(&selfSigned, "self-signed", false, "make a certificate that the key signs itself")
	flags.IntVar(&days, "days", 365, "how many days `N` a self-signed certificate is valid")
	_ = cmd.MarkFlagRequired("subject") // it was added above
	return cmd
}

func (a *releaser) cmsCommand() *cobra.Command {
	var u keyUse
	var certificateFile, out string
	cmd := &cobra.Command{
		Use: "cms --key KEY --certificate CERT FILE", Short: "Make a detached CMS signature of a file",
		Long: `Make a detached CMS signature (RFC 5652) of a file, in DER, with a key of a gateway and
its certificate. openssl cms -verify -binary -inform DER checks it for RSA and P-256.
The file is hashed here and can have any size. The signature needs a user or --as-
administrator, as kmsgate sign does.`,
		Example: "  kmsgate cms --config kmsgate.yaml --user release --key alias/release --certificate release.pem app.tar.gz --out app.tar.gz.p7s",
		Args:    cli.Arguments("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := cli.ReadSmallFile(certificateFile)
			if err != nil {
				return cli.UsageError(err)
			}
			certificates, err := signer.ParseCertificates(text)
			if err != nil {
				return cli.Usagef("reading %q: %w", certificateFile, err)
			}
			if err := checkNewFile(out); err != nil {
				return err
			}
			return u.find(a.App, cmd, "", func(c signer.Client, k signer.Key) error {
				s, err := c.CryptoSigner(cmd.Context(), k)
				if err != nil {
					return err
				}
				signature, err := hashFile(cmd, args[0], func(r io.Reader) ([]byte, error) { return signer.CMS(s, k, certificates, r) })
				if err != nil {
					return advise(err)
				}
				return a.writeCMS(cmd, out, signature)
			})
		},
	}
	u.addTo(a.App, cmd, true)
	cmd.Flags().StringVar(&certificateFile, "certificate", "", "`CERT`, a file with the key's certificate and those of its issuers, in PEM")
	cmd.Flags().StringVar(&out, "out", "", "`FILE` for the signature, which must not exist (default: the standard output)")
	_ = cmd.MarkFlagRequired("certificate") // it was added above
	return cmd
}

// checkNewFile refuses, before anything is signed, a file that exists or cannot be created.
func checkNewFile(path string) error {
	if path == "" {
		return nil
	}
	if _, err := os.Lstat(path); err == nil {
		return cli.Usagef("%q exists and is not overwritten: give another name", path)
	}
	return cli.UsageError(isDirectory(filepath.Dir(path)))
}

// writeCMS writes a signature to a new file, or to the standard output.
func (a *releaser) writeCMS(cmd *cobra.Command, out string, signature []byte) error {
	if out == "" && a.Output.Value() == cli.OutputTable {
		_, err := cmd.OutOrStdout().Write(signature)
		return err
	}
	if out == "" {
		return a.Print(cmd, cli.View{Value: struct{ Signature []byte }{signature}})
	}
	file, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("writing the signature: %w", err)
	}
	_, err = file.Write(signature)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("writing the signature: %w", errors.Join(err, os.Remove(out)))
	}
	written := struct{ SignatureFile string }{out}
	return a.Print(cmd, cli.View{Value: written, Text: out + "\n"})
}
