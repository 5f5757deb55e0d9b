package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/ceremony"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/printable"
)

// ceremonyFlags are the flags of kmsgate ceremony.
type ceremonyFlags struct {
	out         string
	dryRun, yes bool
}

func (a *admin) ceremonyCommand() *cobra.Command {
	var f ceremonyFlags
	cmd := &cobra.Command{
		Use: "ceremony PLAN", Short: "Create the keys, users, policies and aliases of a plan, with an attested transcript",
		Long: `Create the keys, users, policies and aliases that a plan in YAML names. The command first
compares the plan with the instance. If something exists that contradicts the plan, it
names the differences and changes nothing. It then shows the steps, and asks whether to
continue.

If the command is interrupted, run it again: it continues, and creates nothing twice. The
transcript is PLAN.transcript. PLAN.transcript.attestation has what the gateway attests of
it: the module, the token with its firmware, the attributes of every key as the token
reports them, and who ran the command. The audit key signs the attestation. kmsgate
ceremony verify needs no gateway.

A plan has a title, operators and what to create:

  title: Keys for releases
  operators: [Ada, Grace]
  policies:
    - name: release
      document:
        Version: "1"
        Statement: [{Effect: Allow, Action: ["kms:AsymmetricSign"], Resource: ["*"]}]
  users:
    - {name: release, description: signs releases, policies: [release]}
  keys:
    - {alias: alias/release, spec: RSA_3072, protect: true}
  aliases:
    - {name: alias/release-2027, key: alias/release}

The title, the operators and something to create are required. Policies, users and keys
can have a description. Keys can also have tags (a mapping) and policy (a key policy).`,
		Example: "  kmsgate ceremony plan.yaml --config kmsgate.yaml --dry-run\n  kmsgate ceremony plan.yaml --config kmsgate.yaml",
		Args:    cli.Arguments("PLAN"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.ceremony(cmd, args[0], f) },
	}
	a.Dialer.Register(cmd)
	cmd.Flags().StringVar(&f.out, "out", "", "`FILE` for the transcript (default: PLAN.transcript)")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show the steps, and change nothing")
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	cmd.AddCommand(a.ceremonyVerifyCommand())
	return cmd
}

func (a *admin) ceremony(cmd *cobra.Command, path string, f ceremonyFlags) (err error) {
	c, err := ceremony.Open(path)
	if err != nil {
		return cli.UsageError(err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	caller, err := a.Dialer.Dial(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, caller.Close()) }()
	if err := c.Prepare(cmd.Context(), caller, f.out); err != nil {
		return err
	}
	steps := cli.ViewOfList(c.PlannedSteps(), "Action", "Name", "Details", "State")
	if f.dryRun {
		return a.Print(cmd, steps)
	}
	if c.Complete() {
		steps.Next = "The ceremony is complete: there is nothing to do. To verify it: kmsgate ceremony verify " + printable.Shell(c.Path())
		return a.Print(cmd, steps)
	}
	if !f.yes {
		question, err := ceremonyQuestion(c)
		if err != nil {
			return err
		}
		if err := a.Confirm(cmd, question); err != nil {
			return err
		}
	}
	p, err := c.Run(cmd.Context())
	if err != nil {
		return err
	}
	steps = cli.ViewOfList(p.Transcript.Steps, "Action", "Name", "State", "KeyId", "RequestId")
	steps.Next = fmt.Sprintf("The ceremony is complete. The transcript is %s; kmsgate ceremony verify shows what the token reports.", printable.Text(c.Path()))
	return a.Print(cmd, steps)
}

// ceremonyQuestion returns what a person must agree to.
func ceremonyQuestion(c *ceremony.Ceremony) (string, error) {
	missing := 0
	for _, s := range c.Steps() {
		if s.State == ceremony.Missing {
			missing++
		}
	}
	text, err := cli.Align(cli.Table(c.PlannedSteps(), "Action", "Name", "Details", "State"))
	return fmt.Sprintf("%s\nCeremony %q by %s at %s.\nTo do: %s. Then each version of the plan's keys signs once, for the attestation.",
		text, printable.Text(c.Plan.Title), printable.Text(strings.Join(c.Plan.Operators, ", ")), printable.Text(c.Instance()), cli.Count(missing, "step")), err
}

func (a *admin) ceremonyVerifyCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "verify TRANSCRIPT", Short: "Verify and show the transcript of a ceremony, without a gateway",
		Long: `Verify and show the transcript of a ceremony, without a gateway. The command checks that

  - the audit key signed the attestation, and the attestation is of this transcript
  - the transcript has every step of its plan, completed
  - the token reports each key as sensitive and not extractable (for EC_SM2, the key that
    seals it)

The exit status is 1 if anything is not proven. The rest of the transcript is the word of
the person who ran the ceremony: operators, times, states and RequestIds. To check the
steps, search the audit log: kmsgate audit search --reference 'ceremony ID'.`,
		Example: "  kmsgate ceremony verify plan.yaml.transcript --audit-public-key audit-public-key.pem",
		Args:    cli.Arguments("TRANSCRIPT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := auditKey(a.App, name)
			if err != nil {
				return err
			}
			p, err := ceremony.Verify(key, args[0])
			if err != nil {
				return fmt.Errorf("the ceremony is not proven: %w", err)
			}
			text, err := textOfProof(p)
			if err != nil {
				return err
			}
			return a.Print(cmd, cli.View{Value: p, Text: text})
		},
	}
	addAuditKeyTo(cmd, &name)
	return cmd
}

// textOfProof shows a ceremony to people.
func textOfProof(p ceremony.Proof) (string, error) {
	t, attested := p.Transcript, p.Attestation
	principal := attested.Principal
	if attested.LoginUid != "" {
		principal += ", login uid " + attested.LoginUid
	}
	tables := [][][]string{
		append([][]string{
			{"Ceremony", printable.Text(t.Title)},
			{"Operators", printable.Text(strings.Join(t.Operators, ", "))},
			{"Run by", printable.Text(principal)},
			{"Instance", printable.Text(attested.Instance)},
			{"Attested", attested.Time.Format(time.RFC3339)},
			{"Reference", printable.Text("ceremony " + t.Ceremony)},
		}, moduleAndToken(*attested.Module, *attested.Token)...),
		cli.Table(t.Steps, "Action", "Name", "State", "KeyId", "RequestId"),
	}
	for _, k := range attested.Keys {
		rows := [][]string{{"KeyId", printable.Text(k.KeyId)}, {"KeyVersionId", printable.Text(k.KeyVersionId)},
			{"KeySpec", string(k.KeySpec)}, {"Protection", printable.Text(k.Protection)}}
		for _, r := range t.Keys {
			if r.KeyId == k.KeyId {
				rows = append([][]string{{"Key", printable.Text(r.Alias)}}, rows...)
				rows = append(rows, []string{"DeletionProtection", printable.Text(r.DeletionProtection)}, []string{"Policy", printable.Text(r.Policy)})
			}
		}
		if k.Protection == kms.ProtectionSealed {
			rows = append(rows, []string{"Attributes of", "the key that seals it"})
		}
		for _, attribute := range k.Attributes {
			rows = append(rows, []string{printable.Text(attribute.Name), printable.Text(attribute.Value)})
		}
		tables = append(tables, rows)
	}
	text, err := cli.Align(tables...)
	return text + "\nproven: the gateway attests this transcript, and the token protects every key, or the key that seals it\n", err
}
