package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/auditlog"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// The environment variables with the paths of the log and of its public key, for command
// lines that name neither.
const (
	auditFileVariable = "KMSGATE_AUDIT_FILE"
	auditKeyVariable  = "KMSGATE_AUDIT_PUBLIC_KEY"
)

func (a *auditor) auditCommand() *cobra.Command {
	head := a.Command(cli.Task{
		Verb: "head", Short: "Print the log's signed head, for an auditor to keep",
		Long: `Print the log's signed head: one word that commits to all lines up to now.

Keep it out of reach of anyone who can change the log. Later, kmsgate audit verify
--expect HEAD shows whether the log still has all these lines.`,
		Example: "kmsgate audit head >> heads",
		Calls: cli.Answered("GetAuditHead", func(h kms.GetAuditHeadResponse) cli.View {
			return cli.View{Value: cli.ViewOf(h, "Head").Value, Text: printable.Text(h.Head) + "\n"}
		}),
	})
	cmd := a.Family("audit", "Read, search and verify the audit log", `Read, search and verify the audit log. It has a line for every request, and a change
of any line leaves a trace.

Without FILE, the commands read the log that --config or $`+auditFileVariable+`
names, including its rotated and compressed files. If lines are missing or a file is
damaged, they say so and end with an exit status other than 0.`,
		head, a.verifyCommand(), a.tailCommand(), a.searchCommand(), a.exportCommand())
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error {
		file, _, err := a.Dialer.AuditFiles()
		if err != nil || file == "" {
			return err
		}
		// Each of these commands reads from the environment what its command line lacks.
		return os.Setenv(auditFileVariable, file)
	}
	return cmd
}

// logPath returns the path of the log: an argument, or the one in the environment.
func logPath(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	if path := os.Getenv(auditFileVariable); path != "" {
		return path, nil
	}
	return "", cli.Usagef("which log? Give FILE, or the gateway's configuration with --config, or set %s", auditFileVariable)
}

// A verification holds the flags of kmsgate audit verify.
type verification struct{ publicKey, after, expect string }

func (a *auditor) verifyCommand() *cobra.Command {
	var v verification
	cmd := &cobra.Command{
		Use: "verify [FILE…]", Short: "Verify the log, and show how far it is proven",
		Long: `Verify the log, and show how far it is proven: up to its last checkpoint, a line that a
key in the token has signed. Give the files in order, the oldest first. If retention has
deleted the first lines, verification begins after them.

Only --expect can show that lines were cut off at the end. It needs a head that kmsgate
audit head printed earlier. With --after HEAD, the first file must continue from that
head, and only later lines are verified. Give a head as it was printed, or as @FILE.

The exit status is 1 if anything is broken or if nothing is proven.`,
		Example: `  kmsgate audit verify audit.log --audit-public-key audit.pem --expect @head
  kmsgate audit verify audit.log.0000000000004712 audit.log --after @head -o json`,
		Args: cli.Arguments("[FILE…]"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.verify(cmd, v, args) },
	}
	addAuditKeyTo(cmd, &v.publicKey)
	cmd.Flags().StringVar(&v.expect, "expect", "", "`HEAD`, or @FILE with one, that the log must contain")
	cmd.Flags().StringVar(&v.after, "after", "", "`HEAD`, or @FILE with one, after which the first file continues")
	return cmd
}

func (a *auditor) verify(cmd *cobra.Command, v verification, args []string) error {
	verifier, err := v.verifier(a.App)
	if err != nil {
		return err
	}
	result, err := verifyLog(cmd.Context(), verifier, args)
	if err != nil && cmd.Context().Err() == nil {
		// The gateway may have been writing a line or rotating a file while it was read. A
		// real fault is there the second time as well.
		result, err = verifyLog(cmd.Context(), verifier, args)
	}
	if errors.Is(err, audit.ErrFilesMissing) {
		err = fmt.Errorf("%w (or give the head before them with --after)", err)
	}
	if err != nil {
		return err
	}
	verified := struct {
		audit.VerifyResult
		NotChecked string `json:",omitempty"`
	}{VerifyResult: result}
	text := auditlog.Summary(result) + "\n"
	if v.expect == "" {
		verified.NotChecked = "The database was not opened: lines that are missing at the end would not show (give a head with --expect)."
		text += verified.NotChecked + "\n"
	}
	return a.Print(cmd, cli.View{Value: verified, Text: text})
}

func verifyLog(ctx context.Context, verifier audit.Verifier, args []string) (audit.VerifyResult, error) {
	if len(args) > 0 {
		return auditlog.Verify(ctx, verifier, args)
	}
	path, err := logPath(nil)
	if err != nil {
		return audit.VerifyResult{}, err
	}
	return auditlog.VerifyLog(ctx, verifier, path)
}

func (v verification) verifier(app *cli.App) (verifier audit.Verifier, err error) {
	if verifier.Key, err = auditKey(app, v.publicKey); err != nil {
		return verifier, err
	}
	if verifier.After, err = readHead("after", v.after); err != nil {
		return verifier, err
	}
	verifier.Expect, err = readHead("expect", v.expect)
	return verifier, err
}

// readHead parses the head that a flag holds or names as @FILE. It returns nil for an empty
// flag.
func readHead(flag, text string) (*audit.Checkpoint, error) {
	if text == "" {
		return nil, nil
	}
	if name, ok := strings.CutPrefix(text, "@"); ok {
		content, err := cli.ReadSmallFile(name)
		if err != nil {
			return nil, err
		}
		text = string(content)
	}
	head, err := audit.ParseCheckpoint(strings.TrimSpace(text))
	if err != nil {
		return nil, cli.Usagef("--%s: not a head that kmsgate audit head printed", flag)
	}
	return &head, nil
}
