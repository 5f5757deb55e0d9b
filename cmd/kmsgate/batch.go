package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/batch"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/internal/printable"
)

func (a *releaser) batchCommand() *cobra.Command {
	var t signTarget
	var list, out string
	cmd := &cobra.Command{
		Use: "batch --in LIST --out FILE", Short: "Sign every line of a list, with an attested manifest",
		Long: `Sign every line of a list. A line is JSON: Key, either Digest (hexadecimal) or File, and
if you like Id, Version, Algorithm and SM2Id. Each line gets one line in the output, in
the same order: a signature or a refusal.

If the command is interrupted, run it again: it continues. Until the last line is answered
the results are in FILE.partial. Only lines that were in flight, at most 32, and lines
that the gateway could not answer can be signed again; the manifest names them. The
manifest is FILE.manifest. Beside it is what the gateway attests of it, signed by the
audit key: kmsgate batch verify needs no gateway.

All requests that name a key in the same way get the same key version, even if somebody
moves its alias. A File is relative to the directory where the command runs. A quota is
waited for; a gateway or token that does not answer is waited for during a minute.

A signature needs a user or --as-administrator, as kmsgate sign does. The exit status is 4
if a line was refused.`,
		Example: "  kmsgate batch --config kmsgate.yaml --user release --in requests.jsonl --out signatures.jsonl",
		Args:    cli.Arguments(""),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.batch(cmd, &t, list, out) },
	}
	t.addLocalTo(a.App, cmd, true)
	cmd.Flags().StringVar(&list, "in", "", "the `LIST`, a file")
	cmd.Flags().StringVar(&out, "out", "", "`FILE` for the results")
	_ = errors.Join(cmd.MarkFlagRequired("in"), cmd.MarkFlagRequired("out")) // they were added above
	cmd.AddCommand(a.batchVerifyCommand())
	return cmd
}

func (a *releaser) batch(cmd *cobra.Command, t *signTarget, list, out string) (err error) {
	if info, err := os.Stat(list); err != nil || !info.Mode().IsRegular() {
		return cli.Usagef("--in %q is not a regular file", list)
	}
	c, err := t.dial(a.App, cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Caller.Close()) }()
	line := cli.NewStatusLine(cmd.ErrOrStderr())
	progress := func(done, total int) { line.Show("%d of %d lines", done, total) }
	r := batch.Runner{Client: c, In: list, Out: out, Progress: progress, Waiting: func(err error) {
		line.End()
		fmt.Fprintf(cmd.ErrOrStderr(), "kmsgate: waiting for the gateway: %s\n", printable.Text(err.Error()))
	}}
	m, err := r.Run(cmd.Context())
	line.End()
	if err != nil {
		return advise(err)
	}
	text := fmt.Sprintf("%s signed, %d refused. The manifest is %s.\n", cli.Count(m.Signed, "line"), m.Refused, printable.Text(batch.ManifestPath(out)))
	if len(m.Again) > 0 {
		text += "Some lines can have been signed more than once: see Again in the manifest.\n"
	}
	err = a.Print(cmd, cli.View{Value: m, Text: text})
	if m.Refused > 0 {
		err = errors.Join(err, fmt.Errorf("%s %w: see Error in the output", cli.Count(m.Refused, "line"), cli.ErrRefused))
	}
	return err
}

func (a *releaser) batchVerifyCommand() *cobra.Command {
	var list, out, key string
	var v batch.Verifier
	cmd := &cobra.Command{
		Use: "verify --out FILE", Short: "Verify the results of a batch, without a gateway",
		Long: `Verify the results of a batch without a gateway: that the audit key signed what the
gateway attests of the manifest, that the manifest names this output, that every line has
one result, and that every signature is valid by a key that the gateway attests. With
--in, also that each result answers its line of the list.

The exit status is 1 if anything is not proven.`,
		Example: "  kmsgate batch verify --out signatures.jsonl --in requests.jsonl --audit-public-key audit-public-key.pem",
		Args:    cli.Arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if v.Files && list == "" {
				return cli.Usagef("--files needs --in: the list names the files")
			}
			if v.Key, err = auditKey(a.App, key); err != nil {
				return err
			}
			p, err := v.Verify(cmd.Context(), list, out)
			if err != nil {
				return fmt.Errorf("the batch is not proven: %w", err)
			}
			text := fmt.Sprintf("proven: %s signed, %d refused; attested on %s by %s for %s\n",
				cli.Count(p.Manifest.Signed, "line"), p.Manifest.Refused, p.Attestation.Time.Format(time.RFC3339),
				printable.Text(p.Attestation.Instance), printable.Text(p.Attestation.Principal))
			if list == "" {
				text += "The list was not compared: give --in to compare what was asked for.\n"
			}
			if p.FilesNotHashed > 0 {
				text += fmt.Sprintf("%s not hashed: give --files to compare what was signed with them.\n", cli.Count(p.FilesNotHashed, "file"))
			}
			return a.Print(cmd, cli.View{Value: p, Text: text})
		},
	}
	cmd.Flags().StringVar(&list, "in", "", "the `LIST`, a file")
	cmd.Flags().StringVar(&out, "out", "", "`FILE` with the results")
	cmd.Flags().BoolVar(&v.Files, "files", false, "hash the files that the list names, and compare")
	addAuditKeyTo(cmd, &key)
	_ = cmd.MarkFlagRequired("out") // it was added above
	return cmd
}
