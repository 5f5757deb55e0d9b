package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/gateway/audit"
)

// Where the log and the key that checks it are, if a command line does not say.
const (
	auditFileVariable = "KMSGATE_AUDIT_FILE"
	auditKeyVariable  = "KMSGATE_AUDIT_PUBLIC_KEY"
)

func (a *admin) auditCommand() *cobra.Command {
	head := a.command(task{
		verb: "head", short: "Print the log's signed head, for an auditor to keep",
		long: `Print the log's signed head: a word that says how far the log has come.

Keep it where nobody who could change the log can change it. kmsgate audit verify
--expect tells later whether the log still has all that it had then.`,
		example: "kmsgate audit head >> heads",
		calls: answered("GetAuditHead", func(h struct{ Head string }) view {
			return view{value: h, text: plain(h.Head) + "\n"}
		}),
	})
	cmd := family("audit", "Read, search and verify the audit log", `Read, search and verify the audit log: a line for every request, and none of
them can be changed without trace.

Without FILE the log is that of the configuration, or else the one that
$`+auditFileVariable+` names, with the files that were rotated before it.`,
		head, a.verifyCommand(), a.tailCommand(), a.searchCommand(), a.exportCommand())
	a.dialer.register(cmd)
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error {
		file, key, err := a.dialer.auditFiles()
		if err != nil || file == "" {
			return err
		}
		// The environment is what all these commands ask where a line says nothing.
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

// filesOf are the files of the log at a path, the oldest first.
func filesOf(path string) ([]string, error) {
	names, err := audit.Files(path)
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("there is no log at %s", path)
	}
	return names, err
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
	return filesOf(path)
}

// openLog opens a file that is closed when ctx is done, so that reading it ends.
func openLog(ctx context.Context, name string) (*os.File, error) {
	f, err := os.Open(name)
	if err == nil {
		context.AfterFunc(ctx, func() { f.Close() })
	}
	return f, err
}

// eachLine calls f with every line of some files.
func eachLine(ctx context.Context, names []string, f func(audit.Line) error) error {
	for _, name := range names {
		file, err := openLog(ctx, name)
		if err != nil {
			return err
		}
		err = audit.Read(file, f)
		file.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return nil
}

// A verification is what a command line says of one.
type verification struct{ publicKey, after, expect string }

func (a *admin) verifyCommand() *cobra.Command {
	var v verification
	cmd := &cobra.Command{
		Use: "verify [FILE…]", Short: "Tell how far the log is proven to be whole",
		Long: `Tell how far the log is proven to be whole: up to its last checkpoint, a line that
a key in the token has signed. The files are given the oldest first.

Lines that were cut off from the end show only with --expect, a head that kmsgate
audit head printed before. To verify but the lines since then, give it with
--after. A head is given as it was printed, or as @FILE.

The exit status is 1 if anything is broken or if nothing is proven.`,
		Example: `  kmsgate audit verify audit.log --public-key audit.pem --expect @head
  kmsgate audit verify audit.log.0000000000004712 audit.log --after @head -o json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return a.verify(cmd, v, args) },
	}
	cmd.Flags().StringVar(&v.publicKey, "public-key", "", "the `FILE` with the key that checks checkpoints, in PEM (default $"+auditKeyVariable+")")
	cmd.Flags().StringVar(&v.expect, "expect", "", "a `HEAD`, or @FILE with one, that the log has to contain")
	cmd.Flags().StringVar(&v.after, "after", "", "the `HEAD`, or @FILE with it, that the first file follows")
	return cmd
}

func (a *admin) verify(cmd *cobra.Command, v verification, args []string) error {
	verifier, err := v.verifier()
	if err != nil {
		return err
	}
	proof, err := proveLog(cmd.Context(), verifier, args)
	if err != nil && cmd.Context().Err() == nil {
		// It may have been a line half written, or a file that was rotated
		// between two: what is wrong stays wrong.
		proof, err = proveLog(cmd.Context(), verifier, args)
	}
	if err != nil {
		return err
	}
	return a.print(cmd, view{value: proof, text: proven(proof) + "\n"})
}

func proveLog(ctx context.Context, verifier audit.Verifier, args []string) (audit.VerifyResult, error) {
	names, err := logFiles(args)
	if err != nil {
		return audit.VerifyResult{}, err
	}
	return verifyFiles(ctx, verifier, names)
}

func (v verification) verifier() (verifier audit.Verifier, err error) {
	name := v.publicKey
	if name == "" {
		name = os.Getenv(auditKeyVariable)
	}
	if name == "" {
		return verifier, fmt.Errorf("without its public key a log proves nothing: give --public-key, or set %s", auditKeyVariable)
	}
	text, err := readSmallFile(name)
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
		content, err := readSmallFile(name)
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

func verifyFiles(ctx context.Context, v audit.Verifier, names []string) (audit.VerifyResult, error) {
	var files []audit.File
	for _, name := range names {
		f, err := openLog(ctx, name)
		if err != nil {
			return audit.VerifyResult{}, err
		}
		defer f.Close()
		files = append(files, audit.File{Name: name, Reader: f})
	}
	proof, err := v.Verify(files...)
	switch {
	case ctx.Err() != nil:
		return proof, ctx.Err()
	case err != nil:
		text := plain(err.Error()) // it can quote the file
		if errors.Is(err, audit.ErrFilesMissing) {
			text += " (or give the head that it follows, with --after)"
		}
		err = errors.New(text)
	}
	return proof, err
}

// proven says in words what is proven, and what is not.
func proven(p audit.VerifyResult) string {
	if p.Proven.Seq < p.First.Seq {
		return fmt.Sprintf("not proven yet: lines %d to %d hang together but no checkpoint covers them", p.First.Seq, p.Last.Seq)
	}
	text := fmt.Sprintf("proven: lines %d to %d, up to %s", p.First.Seq, p.Proven.Seq, p.ProvenTime.UTC().Format(time.RFC3339))
	if p.Restored != nil && p.First.Seq > 1 {
		text += fmt.Sprintf("; it goes on behind line %d of the log of before, with the records of a backup", p.First.Seq-1)
	}
	switch more := p.Last.Seq - p.Proven.Seq; more {
	case 0:
		return text
	case 1:
		return text + "; 1 more line since then hangs together with them but no checkpoint covers it yet"
	default:
		return text + fmt.Sprintf("; %d more lines since then hang together but no checkpoint covers them yet", more)
	}
}

func (a *admin) searchCommand() *cobra.Command {
	filter := newFilter()
	cmd := &cobra.Command{
		Use: "search [FILE…]", Short: "Print the lines of the log that have all that is asked for",
		Long: `Print the lines of the log that have all that is asked for. Nothing is verified:
that is for kmsgate audit verify.`,
		Example: `  kmsgate audit search --user billing --since 24h
  kmsgate audit search --code Forbidden.NoPermission --since 2026-11-01 --until 2026-12-01 -o json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return search(cmd, args, filter, a.output.value()) },
	}
	filter.addTo(cmd)
	return cmd
}

func (a *admin) exportCommand() *cobra.Command {
	filter := newFilter()
	format := &parameter{flag: "format", kind: "FORMAT", usage: "how lines are written", choices: []string{formatLines, formatCSV}, values: []string{formatLines}}
	cmd := &cobra.Command{
		Use: "export [FILE…]", Short: "Write lines of the log for other programs: as JSON lines, or for a spreadsheet",
		Example: `  kmsgate audit export --since 2026-11-01 --until 2026-12-01 --format csv > november.csv
  kmsgate audit export --user billing | jq .Action`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return search(cmd, args, filter, format.value()) },
	}
	filter.addTo(cmd)
	format.addTo(cmd)
	return cmd
}

func search(cmd *cobra.Command, args []string, filter *filter, format string) error {
	match, err := filter.match()
	if err != nil {
		return err
	}
	names, err := logFiles(args)
	if err != nil {
		return err
	}
	out := newLineWriter(cmd.OutOrStdout(), format)
	err = eachLine(cmd.Context(), names, func(line audit.Line) error {
		if !match(line) {
			return nil
		}
		return out.write(line)
	})
	return errors.Join(err, out.Flush())
}
