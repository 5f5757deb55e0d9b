package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/softhsm"
)

func (a *admin) doctorCommand() *cobra.Command {
	d := doctor{admin: a}
	cmd := &cobra.Command{
		Use: "doctor", Short: "Find what is wrong with a gateway, its token and its records",
		Long: `Find what is wrong with a gateway: its configuration and files, the token and what
it can do, and whether token and records agree; and has every key version sign once.
It says what to do about each thing. The exit status is 0 if there is no problem.

With --repair it destroys objects of ours in the token that no record speaks of,
and removes empty files of SoftHSM's, when you have seen which and said yes. It never
destroys an object whose id any record has, and none at all when the token has more
private keys without a record than with one: then the database is not the token's.`,
		Example: "  kmsgate doctor --config /etc/kmsgate/kmsgate.yaml\n  kmsgate doctor --config /etc/kmsgate/kmsgate.yaml --repair",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd) },
	}
	cmd.Flags().BoolVar(&d.repair, "repair", false, "mend what can be mended without losing anything that is recorded")
	cmd.Flags().BoolVarP(&d.yes, "yes", "y", false, "do not ask before mending")
	return cmd
}

type doctor struct {
	admin       *admin
	repair, yes bool
}

// The severities of findings.
const (
	aProblem = "problem" // something does not work, is lost, or is open to others
	aNote    = "note"    // something to know
)

// A finding is one thing that the doctor has to say.
type finding struct {
	Severity string
	What     string // a sentence
	Do       string // what to do; empty for nothing
}

// A diagnosis is all that was found.
type diagnosis struct {
	Findings []finding
	Mended   []string
	Offers   []hsm.Offer // what the token can do

	strays []tokenObject // which can be destroyed
	empty  []string      // files that can be removed
}

func (d *diagnosis) problem(do, what string, args ...any) {
	d.Findings = append(d.Findings, finding{aProblem, fmt.Sprintf(what, args...), do})
}

func (d *diagnosis) note(do, what string, args ...any) {
	d.Findings = append(d.Findings, finding{aNote, fmt.Sprintf(what, args...), do})
}

func (d *diagnosis) problems() (n int) {
	for _, f := range d.Findings {
		if f.Severity == aProblem {
			n++
		}
	}
	return n
}

func (d *doctor) run(cmd *cobra.Command) (err error) {
	p := d.patient(cmd)
	defer func() { err = errors.Join(err, p.close()) }()
	found := p.examine(cmd.Context())
	if d.repair && len(found.strays)+len(found.empty) > 0 {
		fmt.Fprint(cmd.ErrOrStderr(), found.plan())
		if !d.yes && !confirmed(cmd.ErrOrStderr(), cmd.InOrStdin()) {
			return errors.New("nothing was done")
		}
		mended, err := p.mend(cmd.Context(), found)
		if err != nil {
			return err
		}
		found = p.examine(cmd.Context())
		found.Mended = mended
	}
	v, err := found.view()
	if err == nil {
		err = d.admin.print(cmd, v)
	}
	if n := found.problems(); err == nil && n > 0 {
		err = fmt.Errorf("problems: %d", n)
	}
	return err
}

// A patient is a gateway that something may be wrong with.
type patient struct {
	configuration      *config.Config // nil if it is not known
	configurationError error
	dial               func() (caller, error)

	gateway caller // nil before it was dialled, and if it cannot be
}

func (d *doctor) patient(cmd *cobra.Command) *patient {
	p := &patient{dial: func() (caller, error) { return d.admin.dialer.dial(cmd) }}
	p.configuration, p.configurationError = d.admin.dialer.configuration()
	return p
}

func (p *patient) close() error {
	if p.gateway == nil {
		return nil
	}
	return p.gateway.Close()
}

// examine goes from the outside to the inside: what is wrong with files can be
// why the instance does not open.
func (p *patient) examine(ctx context.Context) *diagnosis {
	d := &diagnosis{Findings: []finding{}, Mended: []string{}, Offers: []hsm.Offer{}}
	if p.configurationError != nil {
		d.problem("mend it, and ask again: nothing else was looked at", "The configuration cannot be read: %v.", p.configurationError)
		return d
	}
	empty := p.examineFiles(d)
	ca := p.examineCA() // before it is opened, which mends some of it
	err, mistakes := p.open(), config.Mistakes{}
	if errors.As(err, &mistakes) { // which have been told
		d.note("ask again when the configuration is right", "What is in the token and in the database was not looked at.")
		return d
	}
	if err != nil {
		d.problem("mend that, and ask again: what is in the token and in the database was not looked at", "The instance cannot be opened: %v.", err)
		return d
	}
	d.Findings = append(d.Findings, ca...) // what is in the way has been said else
	p.examineAccessPoints(ctx, d)
	p.examineClientKeys(ctx, d, time.Now())
	if p.examineToken(ctx, d) {
		p.examineRecords(ctx, d, empty)
	}
	return d
}

func (p *patient) open() (err error) {
	if p.gateway == nil {
		p.gateway, err = p.dial()
	}
	return err
}

// examineToken reports whether the token can be looked into.
func (p *patient) examineToken(ctx context.Context, d *diagnosis) bool {
	var answer struct{ Survey hsm.Survey }
	if err := p.gateway.Call(ctx, "DescribeToken", nil, &answer); err != nil {
		d.problem("see that the token is there; a gateway that runs connects to it again by itself, and its log says why it cannot", "The token does not answer: %v.", err)
		return false
	}
	s := answer.Survey
	d.Offers = append(d.Offers, s.Offers...)
	if s.Sealing == "" {
		d.problem("use a token that has CKM_AES_GCM or CKM_SHA256_HMAC", "The token cannot seal secrets.")
	}
	for _, flag := range s.Token.Flags {
		if trouble := tokenTroubles[flag]; trouble != nil {
			d.problem(trouble[1], "%s", trouble[0])
		}
	}
	for _, o := range s.Offers {
		if !o.Offered {
			d.note("", "Keys of KeySpec %s cannot be made in this token: %s.", o.KeySpec, o.Reason)
		}
	}
	return true
}

// tokenTroubles are what flags of a token mean, and what to do.
var tokenTroubles = map[string][]string{
	"WRITE_PROTECTED":        {"The token is write-protected: no key can be made or destroyed.", "lift that with the token's own tools"},
	"USER_PIN_COUNT_LOW":     {"Somebody has tried a wrong PIN on the token since it was last logged in to.", "find out who it was"},
	"USER_PIN_FINAL_TRY":     {"One more wrong PIN locks the token.", "find out who tried wrong ones; a login with the right one ends this"},
	"USER_PIN_LOCKED":        {"The token's user PIN is locked: once it is left, it cannot be logged in to.", "have its security officer set the PIN anew"},
	"USER_PIN_TO_BE_CHANGED": {"The token wants its user PIN to be changed.", "change it with the token's own tools, stop the gateway, and put the new one where the configuration says"},
	"ERROR_STATE":            {"The token says that it is in an error state.", "see what its own tools say"},
}

const restoreKey = "restore the token from a backup of when the key was there; if there is none this version can never sign again: give the key another one with kmsgate key create-version %s, or delete it with kmsgate key schedule-deletion"

func (p *patient) examineRecords(ctx context.Context, d *diagnosis, empty []softhsm.Finding) {
	var answer tokenObjects
	if err := p.gateway.Call(ctx, "ListTokenObjects", nil, &answer); err != nil {
		d.problem("ask again when the token has less to do", "The token could not be compared with the records: %v.", err)
		return
	}
	missing := make(map[string]bool)
	for _, record := range answer.Deviations.Deviation {
		missing[record.KeyVersionId] = true
		d.deviation(record)
	}
	anothers := 0
	suspect := d.suspectDatabase(answer.Objects.Object)
	for _, o := range answer.Objects.Object {
		switch {
		case o.Use == "stray" && suspect:
			d.problem("nothing, before the database is certain", "The token has %s that no record speaks of.", o)
		case o.Use == "stray":
			d.stray(o)
		case o.Use == "another's":
			anothers++
		case o.OtherPublicKey:
			d.problem("see whether the version signs (below); if it does, only this public key is wrong, which the gateway does not use",
				"The public key in the token with the id of version %s of key %s is not the one that is recorded.", o.KeyVersionId, o.KeyId)
		}
	}
	if anothers > 0 {
		d.note("", "%d objects in the token have no label of kmsgate's, and are left alone.", anothers)
	}
	d.emptyFiles(empty, len(missing) > 0)
	p.examineKeys(ctx, d, missing)
}

func (d *diagnosis) deviation(record deviation) {
	what := fmt.Sprintf("version %s of key %s (%s, %s%s)", record.KeyVersionId, record.KeyId, record.KeySpec, record.KeyState, called(record.Aliases.Alias))
	if record.Use == "audit key" {
		what = "the audit log's key"
	}
	switch {
	case record.PrivateKeys > 1:
		d.problem("find out which of them signs for the recorded public key, and destroy the others with the token's own tools: kmsgate destroys nothing whose id a record has",
			"The token has %d private keys with the id of %s, and the gateway uses none of them.", record.PrivateKeys, what)
	case record.Use == "audit key":
		d.problem("restore the token from a backup of when the key was there", "The private key of %s is not in the token: checkpoints cannot be signed.", what)
	default:
		d.problem(fmt.Sprintf(restoreKey, record.KeyId), "The private key of %s is not in the token.", what)
	}
}

func called(aliases []string) string {
	if len(aliases) == 0 {
		return ""
	}
	return ", " + strings.Join(aliases, ", ")
}

// suspectDatabase reports whether the token has more private keys without a record than
// with one. A kill leaves one or two: so many are those of a newer database, or of
// another one.
func (d *diagnosis) suspectDatabase(objects []tokenObject) bool {
	strays, recorded := 0, 0
	for _, o := range objects {
		switch {
		case o.Class != hsm.ClassPrivateKey:
		case o.Use == "stray":
			strays++
		case o.KeyVersionId != "" || o.Use == "audit key":
			recorded++
		}
	}
	if strays <= recorded {
		return false
	}
	d.problem("put the right database back, or restore the newest backup (kmsgate restore). kmsgate doctor --repair destroys nothing in the token until then; if you know better, the token's own tools do",
		"The token has %d private keys that no record speaks of, and %d that one does: it looks as if the database were an older one, or another one's.", strays, recorded)
	return true
}

func (d *diagnosis) stray(o tokenObject) {
	d.strays = append(d.strays, o)
	d.problem("kmsgate doctor --repair destroys it. But if the database was restored from a backup, restore a newer one first: keys that were made since look like this",
		"The token has %s that no record speaks of.", o)
}

// String names an object in a sentence.
func (o tokenObject) String() string {
	if o.Label == "" && o.ObjectId == "" {
		return "an object that was not finished when it was made"
	}
	id := "no CKA_ID"
	if o.ObjectId != "" {
		id = "CKA_ID " + o.ObjectId
	}
	spec := ""
	if o.KeySpec != "" {
		spec = ", " + o.KeySpec
	}
	return fmt.Sprintf("a %s with label %q and %s%s", o.Class, o.Label, id, spec)
}

// examineKeys has every version sign once, but those that are known to be missing.
func (p *patient) examineKeys(ctx context.Context, d *diagnosis, missing map[string]bool) {
	versions, err := everyVersion(ctx, p.gateway)
	if err != nil {
		d.problem("ask again", "The keys could not be listed: %v.", err)
		return
	}
	for _, v := range versions {
		if missing[v.KeyVersionId] {
			continue
		}
		_, err := testKey(ctx, p.gateway, v, "1")
		switch {
		case err == nil:
		case strings.HasPrefix(err.Error(), "404 "): // deleted meanwhile
		case strings.HasPrefix(err.Error(), "403 "):
			d.note("", "Version %s of key %s could not be tried: the key's policy denies it even to a local administrator.", v.KeyVersionId, v.KeyId)
		case strings.HasPrefix(err.Error(), "503 "):
			d.problem("ask again when the token is there and has less to do", "Version %s of key %s could not be tried: %v.", v.KeyVersionId, v.KeyId, err)
		default:
			d.problem(fmt.Sprintf(restoreKey, v.KeyId), "Version %s of key %s does not sign as it should: %v.", v.KeyVersionId, v.KeyId, err)
		}
	}
}

// plan says what mending is going to do.
func (d *diagnosis) plan() string {
	var b strings.Builder
	if len(d.strays) > 0 {
		b.WriteString("These objects in the token, which no record speaks of, are going to be destroyed for good:\n")
		for _, o := range d.strays {
			fmt.Fprintf(&b, "  - %s\n", plain(o.String()))
		}
	}
	if len(d.empty) > 0 {
		b.WriteString("These empty files are going to be removed:\n")
		for _, path := range d.empty {
			fmt.Fprintf(&b, "  - %s\n", plain(path))
		}
	}
	return b.String()
}

// mend does what the plan says. The gateway checks each object once more against
// its records.
func (p *patient) mend(ctx context.Context, d *diagnosis) (mended []string, err error) {
	for _, o := range d.strays {
		err := p.gateway.Call(ctx, "DestroyTokenObject", map[string]string{
			"Handle": strconv.FormatUint(uint64(o.Handle), 10), "Class": o.Class, "Label": o.Label, "ObjectId": o.ObjectId}, nil)
		if err != nil && !isGone(err) {
			return mended, fmt.Errorf("destroying %s: %w", o, err)
		}
		mended = append(mended, fmt.Sprintf("Destroyed %s.", o))
	}
	for _, path := range d.empty {
		if err := softhsm.RemoveEmpty(path); err != nil {
			return mended, fmt.Errorf("removing an empty file: %w", err)
		}
		mended = append(mended, fmt.Sprintf("Removed %s.", path))
	}
	return mended, nil
}

// isGone reports whether there was nothing to destroy any more: some tokens
// destroy a public key with its private one.
func isGone(err error) bool { return strings.HasPrefix(err.Error(), "404 EntityNotExist.TokenObject") }

// view shows problems first, and in the end what the token can do.
func (d *diagnosis) view() (view, error) {
	var b strings.Builder
	for _, what := range d.Mended {
		fmt.Fprintln(&b, plain(what))
	}
	for _, severity := range []string{aProblem, aNote} {
		for _, f := range d.Findings {
			if f.Severity == severity {
				f.write(&b)
			}
		}
	}
	if d.problems() == 0 {
		b.WriteString("No problems were found.\n")
	}
	if len(d.Offers) > 0 {
		offers, err := align(table(offersOf(hsm.Survey{Offers: d.Offers})))
		if err != nil {
			return view{}, err
		}
		fmt.Fprintf(&b, "\nThe token and keys of each KeySpec:\n\n%s", offers)
	}
	return view{value: d, text: b.String()}, nil
}

func (f finding) write(w io.Writer) {
	fmt.Fprintf(w, "%s: %s\n", f.Severity, plain(f.What))
	if f.Do != "" {
		fmt.Fprintf(w, "    do: %s\n", plain(f.Do))
	}
}
