// Package doctor finds what is wrong with a gateway, its token and its records, and
// repairs what it can without losing anything recorded. It prints nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/softhsm"
)

// A Severity says how bad a finding is.
type Severity string

// The severities of findings.
const (
	Problem Severity = "problem" // something does not work, is lost, or is open to others
	Note    Severity = "note"    // something to know
)

// A Finding is one thing that the doctor has to say.
type Finding struct {
	Severity Severity
	What     string // a sentence
	Do       string // what to do; empty for nothing
}

// A Diagnosis is everything that an examination found.
type Diagnosis struct {
	Findings []Finding
	Mended   []string    // sentences: what Repair did before
	Offers   []hsm.Offer // what the token can do

	strays []kms.TokenObject // Repair destroys them
	empty  []string          // files that Repair removes
}

func (d *Diagnosis) problem(do, what string, args ...any) {
	d.Findings = append(d.Findings, Finding{Problem, fmt.Sprintf(what, args...), do})
}

func (d *Diagnosis) note(do, what string, args ...any) {
	d.Findings = append(d.Findings, Finding{Note, fmt.Sprintf(what, args...), do})
}

// Problems returns the number of findings that are problems.
func (d *Diagnosis) Problems() (n int) {
	for _, f := range d.Findings {
		if f.Severity == Problem {
			n++
		}
	}
	return n
}

// Strays describes the objects in the token that [Doctor.Repair] destroys.
func (d *Diagnosis) Strays() (all []string) {
	for _, o := range d.strays {
		all = append(all, describe(o))
	}
	return all
}

// EmptyFiles returns the files of SoftHSM's that [Doctor.Repair] removes.
func (d *Diagnosis) EmptyFiles() []string { return d.empty }

// A Doctor examines one gateway. Close it.
type Doctor struct {
	// Config is the gateway's configuration, nil if it is not known; ConfigError is why
	// it could not be loaded.
	Config      *config.Config
	ConfigError error

	// Dial returns a caller of the gateway. The Doctor calls it once, after it has looked
	// at the files: opening an appliance mends some of what is wrong with them.
	Dial func() (target.Caller, error)

	gateway target.Caller // nil before it was dialled, and if it cannot be
}

// Close closes the connection to the gateway.
func (dr *Doctor) Close() error {
	if dr.gateway == nil {
		return nil
	}
	return dr.gateway.Close()
}

// Examine looks at everything, from the outside to the inside: what is wrong with files
// can be why the appliance does not open. It changes nothing but what opening does.
func (dr *Doctor) Examine(ctx context.Context) *Diagnosis {
	d := &Diagnosis{Findings: []Finding{}, Mended: []string{}, Offers: []hsm.Offer{}}
	if dr.ConfigError != nil {
		d.problem("mend it, and ask again: nothing else was looked at", "The configuration cannot be read: %v.", dr.ConfigError)
		return d
	}
	empty := dr.examineFiles(d)
	ca := dr.examineCA() // before it is opened, which mends some of it
	err, mistakes := dr.open(), config.Mistakes{}
	if errors.As(err, &mistakes) { // which have been told
		d.note("ask again when the configuration is right", "What is in the token and in the database was not looked at.")
		return d
	}
	if err != nil {
		d.problem("mend that, and ask again: what is in the token and in the database was not looked at", "The instance cannot be opened: %v.", err)
		return d
	}
	d.Findings = append(d.Findings, ca...) // what is in the way has been said else
	dr.examineAccessPoints(ctx, d)
	dr.examineClientKeys(ctx, d, time.Now())
	if dr.examineToken(ctx, d) {
		dr.examineRecords(ctx, d, empty)
	}
	return d
}

func (dr *Doctor) open() (err error) {
	if dr.gateway == nil {
		dr.gateway, err = dr.Dial()
	}
	return err
}

// examineToken reports whether the token can be looked into.
func (dr *Doctor) examineToken(ctx context.Context, d *Diagnosis) bool {
	var answer kms.DescribeTokenResponse
	if err := dr.gateway.Call(ctx, "DescribeToken", nil, &answer); err != nil {
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

func (dr *Doctor) examineRecords(ctx context.Context, d *Diagnosis, empty []softhsm.Finding) {
	var answer kms.ListTokenObjectsResponse
	if err := dr.gateway.Call(ctx, "ListTokenObjects", nil, &answer); err != nil {
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
		case o.Use == kms.UseStray && suspect:
			d.problem("nothing, before the database is certain", "The token has %s that no record speaks of.", describe(o))
		case o.Use == kms.UseStray:
			d.stray(o)
		case o.Use == kms.UseAnothers:
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
	dr.examineKeys(ctx, d, missing)
}

func (d *Diagnosis) deviation(record kms.Deviation) {
	what := fmt.Sprintf("version %s of key %s (%s, %s%s)", record.KeyVersionId, record.KeyId, record.KeySpec, record.KeyState, called(record.Aliases.Alias))
	if record.Use == kms.UseAudit {
		what = "the audit log's key"
	}
	switch {
	case record.PrivateKeys > 1:
		d.problem("find out which of them signs for the recorded public key, and destroy the others with the token's own tools: kmsgate destroys nothing whose id a record has",
			"The token has %d private keys with the id of %s, and the gateway uses none of them.", record.PrivateKeys, what)
	case record.Use == kms.UseAudit:
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
func (d *Diagnosis) suspectDatabase(objects []kms.TokenObject) bool {
	strays, recorded := 0, 0
	for _, o := range objects {
		switch {
		case o.Class != hsm.ClassPrivateKey:
		case o.Use == kms.UseStray:
			strays++
		case o.KeyVersionId != "" || o.Use == kms.UseAudit:
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

func (d *Diagnosis) stray(o kms.TokenObject) {
	d.strays = append(d.strays, o)
	d.problem("kmsgate doctor --repair destroys it. But if the database was restored from a backup, restore a newer one first: keys that were made since look like this",
		"The token has %s that no record speaks of.", describe(o))
}

// describe names an object in a sentence.
func describe(o kms.TokenObject) string {
	if o.Label == "" && o.ObjectId == "" {
		return "an object that was not finished when it was made"
	}
	id := "no CKA_ID"
	if o.ObjectId != "" {
		id = "CKA_ID " + o.ObjectId
	}
	spec := ""
	if o.KeySpec != "" {
		spec = ", " + string(o.KeySpec)
	}
	return fmt.Sprintf("a %s with label %q and %s%s", o.Class, o.Label, id, spec)
}

// examineKeys has every version sign once, but those that are known to be missing.
func (dr *Doctor) examineKeys(ctx context.Context, d *Diagnosis, missing map[string]bool) {
	versions, err := target.EveryKeyVersion(ctx, dr.gateway)
	if err != nil {
		d.problem("ask again", "The keys could not be listed: %v.", err)
		return
	}
	for _, v := range versions {
		if missing[v.KeyVersionId] {
			continue
		}
		_, err := target.TestKeyVersion(ctx, dr.gateway, v, "1")
		switch {
		case err == nil:
		case isGone(err): // deleted while the doctor looked
		case errors.Is(err, kms.ErrNoPermission):
			d.note("", "Version %s of key %s could not be tried: the key's policy denies it even to a local administrator.", v.KeyVersionId, v.KeyId)
		case errors.Is(err, kms.ErrUnavailable):
			d.problem("ask again when the token is there and has less to do", "Version %s of key %s could not be tried: %v.", v.KeyVersionId, v.KeyId, err)
		default:
			d.problem(fmt.Sprintf(restoreKey, v.KeyId), "Version %s of key %s does not sign as it should: %v.", v.KeyVersionId, v.KeyId, err)
		}
	}
}

// Repair destroys the strays and removes the empty files that an examination found, and
// says in sentences what it did. The gateway checks each object once more against its
// records.
func (dr *Doctor) Repair(ctx context.Context, d *Diagnosis) (mended []string, err error) {
	for _, o := range d.strays {
		err := dr.gateway.Call(ctx, "DestroyTokenObject", map[string]string{
			"Handle": strconv.FormatUint(uint64(o.Handle), 10), "Class": o.Class, "Label": o.Label, "ObjectId": o.ObjectId}, nil)
		if err != nil && !errors.Is(err, kms.ErrObjectNotFound) { // some tokens destroy a public key with its private one
			return mended, fmt.Errorf("destroying %s: %w", describe(o), err)
		}
		mended = append(mended, fmt.Sprintf("Destroyed %s.", describe(o)))
	}
	for _, path := range d.empty {
		if err := softhsm.RemoveEmpty(path); err != nil {
			return mended, fmt.Errorf("removing an empty file: %w", err)
		}
		mended = append(mended, fmt.Sprintf("Removed %s.", path))
	}
	return mended, nil
}

// isGone reports whether a key, a version or a resource does not exist any more.
func isGone(err error) bool {
	return errors.Is(err, kms.ErrKeyNotFound) || errors.Is(err, kms.ErrKeyVersionNotFound) || errors.Is(err, kms.ErrResourceNotFound)
}
