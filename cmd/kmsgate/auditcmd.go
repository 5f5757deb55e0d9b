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
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Where the log and the key that checks it are, if a command line does not say.
const (
	auditFileVariable = "KMSGATE_AUDIT_FILE"
	auditKeyVariable  = "KMSGATE_AUDIT_PUBLIC_KEY"
)

func (a *admin) auditCommand() *cobra.Command {
	head := a.Command(cli.Task{
		Verb: "head", Short: "Print the log's signed head, for an auditor to keep",
		Long: `Print the log's signed head: a word that says how far the log has come.

Keep it where nobody who can change the log can change it. Later, kmsgate audit
verify --expect tells whether the log still has everything it had then.`,
		Example: "kmsgate audit head >> heads",
		Calls: cli.Answered("GetAuditHead", func(h kms.GetAuditHeadResponse) cli.View {
			return cli.View{Value: cli.ViewOf(h, "Head").Value, Text: printable.Text(h.Head) + "\n"}
		}),
	})
	cmd := cli.Family("audit", "Read, search and verify the audit log", `Read, search and verify the audit log. It has a line for every request, and nobody
can change a line without a trace.

Without FILE, the commands read the log that --config or $`+auditFileVariable+`
names, and the files that were rotated before it.`,
		head, a.verifyCommand(), a.tailCommand(), a.searchCommand(), a.exportCommand())
	a.Dialer.Register(cmd)
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error {
		file, key, err := a.Dialer.AuditFiles()
		if err != nil || file == "" {
			return err
		}
		// All these commands look into the environment for what their line lacks.
		return errors.Join(os.Setenv(auditFileVariable, file), os.Setenv(auditKeyVariable, key))
	}
	return cmd
}

// logPath is the path of the log that a command line means.
func logPath(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	if path := os.Getenv(auditFileVariable); path != "" {
		return path, nil
	}
	return "", fmt.Errorf("which log? Give its FILE, the gateway's configuration with --config, or set %s", auditFileVariable)
}

// logFiles are the files that a command line names, or all of the log.
func logFiles(args []string) ([]string, error) {
	if len(args) > 0 {
		return args, nil
	}
	path, err := logPath(nil)
	if err != nil {
		return nil, err
	}
	return auditlog.Files(path)
}

// A verification holds the flags of one.
type verification struct{ publicKey, after, expect string }

func (a *admin) verifyCommand() *cobra.Command {
	var v verification
	cmd := &cobra.Command{
		Use: "verify [FILE…]", Short: "Verify the log, and tell how far it is proven",
		Long: `Verify the log, and tell how far it is proven: up to its last checkpoint, a line
that a key in the token has signed. Give the files the oldest first.

Only --expect shows that lines were cut off at the end: give a head that kmsgate
audit head printed earlier. To verify only the lines since then, give it with
--after. Give a head as it was printed, or as @FILE.

The exit status is 1 if anything is broken or if nothing is proven.`,
		Example: `  kmsgate audit verify audit.log --public-key audit.pem --expect @head
  kmsgate audit verify audit.log.0000000000004712 audit.log --after @head -o json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return a.verify(cmd, v, args) },
	}
	cmd.Flags().StringVar(&v.publicKey, "public-key", "", "the `FILE` with the key that checks checkpoints, in PEM (default $"+auditKeyVariable+")")
	cmd.Flags().StringVar(&v.expect, "expect", "", "a `HEAD`, or @FILE with one, that the log must contain")
	cmd.Flags().StringVar(&v.after, "after", "", "the `HEAD`, or @FILE with it, that the first file follows")
	return cmd
}

func (a *admin) verify(cmd *cobra.Command, v verification, args []string) error {
	verifier, err := v.verifier()
	if err != nil {
		return err
	}
	result, err := verifyLog(cmd.Context(), verifier, args)
	if err != nil && cmd.Context().Err() == nil {
		// A line may have been half written, or a file rotated while it was read.
		// What is really wrong is still wrong the second time.
		result, err = verifyLog(cmd.Context(), verifier, args)
	}
	if errors.Is(err, audit.ErrFilesMissing) {
		err = fmt.Errorf("%w (or give the head that it follows, with --after)", err)
	}
	if err != nil {
		return err
	}
	return a.Print(cmd, cli.View{Value: result, Text: auditlog.Summary(result) + "\n"})
}

func verifyLog(ctx context.Context, verifier audit.Verifier, args []string) (audit.VerifyResult, error) {
	names, err := logFiles(args)
	if err != nil {
		return audit.VerifyResult{}, err
	}
	return auditlog.Verify(ctx, verifier, names)
}

func (v verification) verifier() (verifier audit.Verifier, err error) {
	name := v.publicKey
	if name == "" {
		name = os.Getenv(auditKeyVariable)
	}
	if name == "" {
		return verifier, fmt.Errorf("without its public key a log proves nothing: give --public-key, or set %s", auditKeyVariable)
	}
	text, err := cli.ReadSmallFile(name)
	if err != nil {
		return verifier, err
	}
	if verifier.Key, err = audit.ParsePublicKey(text); err != nil {
		return verifier, fmt.Errorf("%s: %w", name, err)
	}
	if verifier.After, err = readHead("after", v.after); err != nil {
		return verifier, err
	}
	verifier.Expect, err = readHead("expect", v.expect)
	return verifier, err
}

// readHead reads a head that a flag gives, or the file that it names; nil is
// none.
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
		return nil, fmt.Errorf("--%s: it is not what `kmsgate audit head` prints", flag)
	}
	return &head, nil
}
