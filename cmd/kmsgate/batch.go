package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/batch"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/gateway/audit"
)

func (a *releaser) batchCommand() *cobra.Command {
	return cli.Family("batch", "Sign what a list names, with a signed manifest", `Sign what a list names: many digests or files, with a manifest that the audit key signs.`,
		a.batchSignCommand(), a.batchVerifyCommand())
}

func (a *releaser) batchSignCommand() *cobra.Command {
	var t signTarget
	var list, out string
	cmd := &cobra.Command{
		Use: "sign --in FILE --out FILE", Short: "Sign every line of a list, and write a signed manifest",
		Long: `Sign every line of a list. A line is JSON: Key, either Digest (hexadecimal) or File, and
if you like Id, Version, Algorithm and SM2Id. Each line gets one line in the output, in
the same order: a signature or a refusal.

If the command is interrupted, run it again: it continues where the output ends. Only the
lines that were in flight can be signed twice; the manifest names them. The manifest is
FILE.manifest beside the output, its signature FILE.manifest.sig.

A signature needs a user or --as-administrator, as kmsgate sign does. The exit status is 4
if the gateway refused a line.`,
		Example: "  kmsgate batch sign --config kmsgate.yaml --user release --in requests.jsonl --out signatures.jsonl",
		Args:    cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if info, err := os.Stat(list); err != nil || !info.Mode().IsRegular() {
				return cli.Usagef("--in %q is not a regular file", list)
			}
			c, err := t.dial(a.App, cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Caller.Close()) }()
			r := batch.Runner{Client: c, In: list, Out: out, Progress: showProgress(cmd.ErrOrStderr())}
			m, err := r.Run(cmd.Context())
			if err != nil {
				return advise(err)
			}
			err = a.Print(cmd, cli.View{Value: m, Text: fmt.Sprintf("%s signed, %d refused. The manifest is %s.\n",
				cli.Count(m.Signed, "line"), m.Refused, printable.Text(batch.ManifestPath(out)))})
			if m.Refused > 0 {
				err = errors.Join(err, errSomeRefused)
			}
			return err
		},
	}
	t.addLocalTo(a.App, cmd, true)
	cmd.Flags().StringVar(&list, "in", "", "`FILE` with the list")
	cmd.Flags().StringVar(&out, "out", "", "`FILE` for the results")
	_ = errors.Join(cmd.MarkFlagRequired("in"), cmd.MarkFlagRequired("out")) // they were added above
	return cmd
}

// errSomeRefused means that some lines of a list have a refusal.
var errSomeRefused = fmt.Errorf("some lines were %w: see Error in the output", cli.ErrRefused)

// showProgress returns a function that shows how many lines are done, once a second, on a terminal.
func showProgress(w io.Writer) func(done int) {
	if cli.TerminalWidth(w) == 0 {
		return nil
	}
	shown := time.Now()
	return func(done int) {
		if time.Since(shown) >= time.Second {
			shown = time.Now()
			fmt.Fprintf(w, "\r%d lines", done)
		}
	}
}

func (a *releaser) batchVerifyCommand() *cobra.Command {
	var list, out, publicKey string
	cmd := &cobra.Command{
		Use: "verify --out FILE --audit-public-key FILE", Short: "Verify the results of a batch, without a gateway",
		Long: `Verify the results of a batch without a gateway: that the audit key signed the manifest,
that it names this output (and with --in this list), that every line has one result, and
that every signature is valid.`,
		Example: "  kmsgate batch verify --out signatures.jsonl --in requests.jsonl --audit-public-key audit-public-key.pem",
		Args:    cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := cli.ReadSmallFile(publicKey)
			if err != nil {
				return cli.UsageError(err)
			}
			key, err := audit.ParsePublicKey(text)
			if err != nil {
				return cli.Usagef("--audit-public-key %q: %w", publicKey, err)
			}
			m, err := batch.Verify(key, list, out)
			if err != nil {
				return fmt.Errorf("the batch is not proven: %w", err)
			}
			return a.Print(cmd, cli.View{Value: m, Text: fmt.Sprintf("proven: %s signed, %d refused, on %s\n",
				cli.Count(m.Signed, "line"), m.Refused, m.Time.Format(time.RFC3339))})
		},
	}
	cmd.Flags().StringVar(&list, "in", "", "`FILE` with the list")
	cmd.Flags().StringVar(&out, "out", "", "`FILE` with the results")
	cmd.Flags().StringVar(&publicKey, "audit-public-key", "", "`FILE` with the instance's audit public key, in PEM")
	_ = errors.Join(cmd.MarkFlagRequired("out"), cmd.MarkFlagRequired("audit-public-key")) // they were added above
	return cmd
}
