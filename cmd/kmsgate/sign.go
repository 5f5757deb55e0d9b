package main

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/signer"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// signFlags are the flags that kmsgate sign and kmsgate verify share.
type signFlags struct {
	keyUse
	algorithm, encoding *cli.Parameter
	rs                  bool
	digest              string
	sm2ID               string
	suffix              string
}

func (f *signFlags) addTo(app *cli.App, cmd *cobra.Command, signs bool) {
	f.keyUse.addTo(app, cmd, signs)
	f.algorithm = &cli.Parameter{Flag: "algorithm", Kind: "ALGORITHM", Values: []string{""}, Usage: "the algorithm (default: the first that fits the key)",
		Choices: allAlgorithms()}
	f.encoding = &cli.Parameter{Flag: "encoding", Kind: "ENCODING", Values: []string{"base64"}, Usage: "how a signature is written", Choices: signer.Encodings}
	app.AddFlag(cmd, f.algorithm)
	app.AddFlag(cmd, f.encoding)
	flags := cmd.Flags()
	flags.BoolVar(&f.rs, "rs", false, "write an ECDSA or SM2 signature as r and s, 32 bytes each, instead of ASN.1")
	flags.StringVar(&f.digest, "digest", "", "`HEX` of a digest of 32 bytes, instead of files (for SM2: SM3 of Z_A and the message)")
	flags.StringVar(&f.sm2ID, "sm2-id", hsm.DefaultSM2ID, "`ID` of the signer, for SM2")
	flags.StringVar(&f.suffix, "suffix", "", "each signature is in a file whose name is FILE and this `SUFFIX`, such as .sig")
}

func allAlgorithms() (names []string) {
	for _, spec := range hsm.KeySpecs() {
		for _, a := range hsm.Algorithms(spec) {
			if !slices.Contains(names, string(a)) {
				names = append(names, string(a))
			}
		}
	}
	return names
}

func (f *signFlags) form() signer.Encoding {
	return signer.Encoding{Text: f.encoding.Value(), RS: f.rs}
}

// binary reports whether signatures are written as bytes that are no text.
func (f *signFlags) binary() bool { return f.encoding.Value() == "raw" || f.encoding.Value() == "der" }

// check refuses a command line with both files and a digest, or with neither.
func (f *signFlags) check(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0 && f.digest == "":
		return cli.Usagef("FILE is missing: give files, or --digest")
	case len(args) > 0 && f.digest != "":
		return cli.Usagef("--digest and FILE exclude each other: give one of them")
	case f.suffix != "" && (f.digest != "" || slices.Contains(args, "-")):
		return cli.Usagef("--suffix is for files: --digest and - have no name")
	case cmd.Flag("sm2-id").Changed && f.digest != "":
		return cli.Usagef("--sm2-id and --digest exclude each other: the digest contains the id")
	}
	return nil
}

// find is [keyUse.find] for the algorithm of the command line. It refuses flags that have no meaning
// for the key.
func (f *signFlags) find(app *cli.App, cmd *cobra.Command, use func(c signer.Client, k signer.Key) error) error {
	return f.keyUse.find(app, cmd, f.algorithm.Value(), func(c signer.Client, k signer.Key) error {
		if err := f.checkKey(cmd, k); err != nil {
			return err
		}
		return use(c, k)
	})
}

func (f *signFlags) checkKey(cmd *cobra.Command, k signer.Key) error {
	if cmd.Flag("sm2-id").Changed && k.Spec() != hsm.EC_SM2 {
		return cli.Usagef("--sm2-id is for SM2, and this key is %s", k.Spec())
	}
	return cli.UsageError(f.form().Check(k))
}

// subjects returns what to sign or verify: each has a name and a digest.
func (f *signFlags) subjects(cmd *cobra.Command, k signer.Key, args []string, each func(name string, digest []byte) error) error {
	if f.digest != "" {
		digest, err := hex.DecodeString(f.digest)
		if err != nil || len(digest) != hsm.DigestSize {
			return cli.Usagef("--digest %q: must be %d hexadecimal digits", f.digest, 2*hsm.DigestSize)
		}
		return each("", digest)
	}
	for _, name := range args {
		digest, err := hashFile(cmd, name, func(r io.Reader) ([]byte, error) { return k.Digest(r, f.sm2ID) })
		if err != nil {
			return err
		}
		if err := each(name, digest); err != nil {
			return err
		}
	}
	return nil
}

// hashFile returns the digest of a file, or of the standard input for "-". A signal ends it, even
// while the file waits for a writer.
func hashFile(cmd *cobra.Command, name string, digest func(r io.Reader) ([]byte, error)) ([]byte, error) {
	type result struct {
		digest []byte
		err    error
	}
	done := make(chan result, 1)
	go func() {
		if name == "-" {
			sum, err := digest(cmd.InOrStdin())
			done <- result{sum, err}
			return
		}
		file, err := os.Open(name)
		if err != nil {
			done <- result{nil, cli.UsageError(err)}
			return
		}
		defer file.Close()
		sum, err := digest(cli.Progress(cmd.ErrOrStderr(), "hashing "+name, file))
		done <- result{sum, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("hashing %q: %w", name, r.err)
		}
		return r.digest, nil
	case <-cmd.Context().Done():
		return nil, fmt.Errorf("hashing %q: %w", name, cmd.Context().Err())
	}
}

func (a *releaser) signCommand() *cobra.Command {
	var f signFlags
	var yes bool
	cmd := &cobra.Command{
		Use: "sign --key KEY FILE…", Short: "Sign files with a key",
		Long: `Sign files with a key of a gateway: of one that is running, of a stopped instance
(--config), or over the network (--endpoint, with the access key in
ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET).

The file is hashed here, so it can have any size; the gateway gets the digest. A local
signature is under the policies of a user: --user NAME, or admin.signing_user in the
configuration. --as-administrator signs under no policy of a user. The audit log has the
person who signed, and the user.

The signature is printed; several are printed with the names of their files. With --suffix
.sig each is written to FILE.sig. --encoding raw writes the bytes that the API has.`,
		Example: `  kmsgate sign --config kmsgate.yaml --user release --key alias/release app.tar.gz --suffix .sig
  kmsgate sign --endpoint kms.example:443 --ca-file ca.pem --key alias/release app.tar.gz -o json`,
		Args: cli.Arguments("[FILE…]"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.sign(cmd, &f, args, yes) },
	}
	f.addTo(a.App, cmd, true)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "replace signature files without asking")
	return cmd
}

// A signed is a signature, for programs.
type signed struct {
	File                       string `json:",omitempty"`
	KeyId, KeyVersionId        string
	KeySpec, Algorithm, Digest string // the digest in hexadecimal
	Signature                  string // as --encoding and --rs ask; raw is in base64
	SignatureFile              string `json:",omitempty"`
}

func (a *releaser) sign(cmd *cobra.Command, f *signFlags, args []string, yes bool) error {
	if err := f.check(cmd, args); err != nil {
		return err
	}
	if f.binary() && len(args) > 1 && f.suffix == "" && a.Output.Value() == cli.OutputTable {
		return cli.Usagef("several signatures in --encoding %s cannot be told apart: give --suffix or -o json", f.encoding.Value())
	}
	if f.suffix != "" && !yes {
		if err := confirmReplace(a.App, cmd, args, f.suffix); err != nil {
			return err
		}
	}
	return f.find(a.App, cmd, func(c signer.Client, k signer.Key) error { return a.signWith(cmd, c, k, f, args) })
}

func (a *releaser) signWith(cmd *cobra.Command, c signer.Client, k signer.Key, f *signFlags, args []string) error {
	var all []signed
	var text strings.Builder
	err := f.subjects(cmd, k, args, func(name string, digest []byte) error {
		signature, err := c.Sign(cmd.Context(), k, digest)
		if err != nil {
			return fmt.Errorf("signing %s: %w", cmp.Or(name, "the digest"), advise(err))
		}
		encoded, err := f.form().Encode(k, signature)
		if err != nil {
			return err
		}
		s := signed{File: name, KeyId: k.KeyId, KeyVersionId: k.KeyVersionId, KeySpec: string(k.Spec()), Algorithm: string(k.Algorithm),
			Digest: hex.EncodeToString(digest), Signature: strings.TrimSpace(string(encoded))}
		if f.binary() {
			s.Signature = base64.StdEncoding.EncodeToString(encoded)
		}
		if f.suffix != "" {
			s.SignatureFile = name + f.suffix
			err := durable.Replace(s.SignatureFile, 0o644, func(w io.Writer) error { _, err := w.Write(encoded); return err })
			if err != nil {
				return fmt.Errorf("writing the signature of %q: %w", name, err)
			}
			fmt.Fprintf(&text, "%s: signed with key version %s, %s\n", printable.Text(s.SignatureFile), k.KeyVersionId, k.Algorithm)
		} else if len(args) > 1 {
			fmt.Fprintf(&text, "%s  %s\n", strings.TrimSpace(string(encoded)), printable.Text(name))
		} else {
			text.Write(encoded)
		}
		all = append(all, s)
		return nil
	})
	if all == nil {
		return err
	}
	// Signatures that were made before an error are printed as well.
	return errors.Join(a.Print(cmd, cli.View{Value: all, Text: text.String()}), err)
}

// advise adds the flags that the gateway's refusal of a signature for nobody asks for.
func advise(err error) error {
	if signer.IsForNobody(err) {
		return fmt.Errorf("%w (give --user NAME or --as-administrator)", err)
	}
	return err
}
