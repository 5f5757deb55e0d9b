// Package doctor finds problems of a gateway, its token and its records. It repairs those
// that it can repair without losing anything recorded. It prints nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/softhsm"
)

// A Severity is how serious a finding is.
type Severity string

// The severities of findings.
const (
	Problem Severity = "problem" // something does not work, is lost, or is accessible to others
	Note    Severity = "note"    // something that the operator should know
)

// A Finding is one result of an examination.
type Finding struct {
	Severity Severity
	What     string // a sentence
	Do       string // advice for the operator; empty if nothing needs doing
}

// A Diagnosis is the result of an examination.
type Diagnosis struct {
	Findings []Finding
	Repaired []string    // sentences about what an earlier Repair did
	Offers   []hsm.Offer // the capabilities of the token

	strays []kms.TokenObject // Repair destroys them
	empty  []string          // files that Repair removes
}

func (d *Diagnosis) problem(do, format string, args ...any) {
	d.Findings = append(d.Findings, Finding{Problem, fmt.Sprintf(format, args...), do})
}

func (d *Diagnosis) note(do, format string, args ...any) {
	d.Findings = append(d.Findings, Finding{Note, fmt.Sprintf(format, args...), do})
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

// EmptyFiles returns the paths of SoftHSM's empty files that [Doctor.Repair] removes.
func (d *Diagnosis) EmptyFiles() []string { return d.empty }

// A Doctor examines one gateway. The caller must close it.
type Doctor struct {
	// Config is the gateway's configuration; nil if it is unknown. ConfigError is the reason
	// why it could not be loaded.
	Config      *config.Config
	ConfigError error

	// Dial returns a caller of the gateway. The Doctor calls it once, after it has examined
	// the files: opening an appliance mends some of their problems.
	Dial func() (target.Caller, error)

	gateway target.Caller // nil before Dial, and if Dial failed
}

// Close closes the connection to the gateway.
func (dr *Doctor) Close() error {
	if dr.gateway == nil {
		return nil
	}
	return dr.gateway.Close()
}

// Examine examines the configuration, the files, the token and the records, in this order:
// the state of a file can be why the appliance does not open. It changes only what opening
// an appliance changes.
func (dr *Doctor) Examine(ctx context.Context) *Diagnosis {
	d := &Diagnosis{Findings: []Finding{}, Repaired: []string{}, Offers: []hsm.Offer{}}
	if dr.ConfigError != nil {
		d.problem("correct it and run kmsgate doctor again; nothing else was examined",
			"The configuration cannot be read: %v.", dr.ConfigError)
		return d
	}
	empty := dr.examineFiles(d)
	ca := dr.examineCA() // before open, which mends some of its problems
	err, mistakes := dr.open(), config.Mistakes{}
	if errors.As(err, &mistakes) { // examineFiles has reported them
		d.note("correct the configuration and run kmsgate doctor again",
			"The token and the database were not examined.")
		return d
	}
	if err != nil {
		d.problem("correct this and run kmsgate doctor again; the token and the database were not examined",
			"The instance cannot be opened: %v.", err)
		return d
	}
	d.Findings = append(d.Findings, ca...) // if open fails, its error reports the CA's problems
	dr.examineAccessPoints(ctx, d)
	dr.examineClientKeys(ctx, d, time.Now())
	dr.examineSigningUser(ctx, d)
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

// examineToken examines the token and reports whether it answers.
func (dr *Doctor) examineToken(ctx context.Context, d *Diagnosis) bool {
	var answer kms.DescribeTokenResponse
	if err := dr.gateway.Call(ctx, "DescribeToken", nil, &answer); err != nil {
		d.problem("check that the token is connected; a running gateway reconnects by itself and logs why it cannot",
			"The token does not answer: %v.", err)
		return false
	}
	s := answer.Survey
	d.Offers = append(d.Offers, s.Offers...)
	if s.Sealing == "" {
		d.problem("use a token with CKM_AES_GCM or CKM_SHA256_HMAC", "The token cannot seal secrets.")
	}
	for _, flag := range s.Token.Flags {
		if p, ok := tokenProblems[flag]; ok {
			d.problem(p.do, "%s", p.sentence)
		}
	}
	for _, o := range s.Offers {
		if !o.Offered {
			d.note("", "The token cannot create keys of KeySpec %s: %s.", o.KeySpec, o.Reason)
		}
	}
	return true
}

// tokenProblems are the findings for flags of a token.
var tokenProblems = map[string]struct{ sentence, do string }{
	"WRITE_PROTECTED": {
		"The token is write-protected, so the gateway can neither create nor destroy keys.",
		"remove the write protection with the token's tools",
	},
	"USER_PIN_COUNT_LOW": {
		"Somebody has entered a wrong user PIN since the last successful login to the token.",
		"find out who entered it",
	},
	"USER_PIN_FINAL_TRY": {
		"One more wrong user PIN locks the token.",
		"find out who entered wrong PINs; a login with the right PIN clears this state",
	},
	"USER_PIN_LOCKED": {
		"The token's user PIN is locked: once the gateway disconnects, it cannot log in again.",
		"have the token's security officer set a new user PIN",
	},
	"USER_PIN_TO_BE_CHANGED": {
		"The token requires its user PIN to be changed.",
		"store a new PIN where the configuration names it, and then change it with the token's tools",
	},
	"ERROR_STATE": {
		"The token reports an error state.",
		"check the token with its tools",
	},
}

// restoreKey is the advice for a key version whose private key is lost, a format for the KeyId.
const restoreKey = "restore the token from a backup that has the private key; without a backup, this version can " +
	"never sign again: create another version with kmsgate key create-version %[1]s, or delete the key with kmsgate " +
	"key schedule-deletion %[1]s"

func (dr *Doctor) examineRecords(ctx context.Context, d *Diagnosis, empty []softhsm.Finding) {
	var answer kms.ListTokenObjectsResponse
	if err := dr.gateway.Call(ctx, "ListTokenObjects", nil, &answer); err != nil {
		d.problem("run kmsgate doctor again when the token is less busy",
			"The token could not be compared with the records: %v.", err)
		return
	}
	missing := make(map[string]bool)
	for _, record := range answer.Deviations.Deviation {
		missing[record.KeyVersionId] = true
		d.deviation(record)
	}
	unlabelled := 0
	suspect := d.suspectDatabase(answer.Objects.Object)
	for _, o := range answer.Objects.Object {
		switch {
		case o.Use == kms.UseStray && suspect:
			d.problem("do nothing until you are sure that the database is the right one",
				"An object in the token has no record: %s.", describe(o))
		case o.Use == kms.UseStray:
			d.stray(o)
		case o.Use == kms.UseAnothers:
			unlabelled++
		case o.OtherPublicKey:
			d.problem("check whether a finding below says that the version does not sign; if none does, only this "+
				"public key is wrong, and the gateway does not use it",
				"The token's public key with the id of version %s of key %s differs from the recorded public key.",
				o.KeyVersionId, o.KeyId)
		}
	}
	if unlabelled > 0 {
		d.note("", "Objects in the token without kmsgate's label, which the gateway leaves alone: %d.", unlabelled)
	}
	d.emptyFiles(empty, len(missing) > 0)
	dr.examineKeys(ctx, d, missing)
}

func (d *Diagnosis) deviation(record kms.Deviation) {
	name := fmt.Sprintf("version %s of key %s (%s, %s%s)",
		record.KeyVersionId, record.KeyId, record.KeySpec, record.KeyState, aliasSuffix(record.Aliases.Alias))
	if record.Use == kms.UseAudit {
		name = "the audit log's key"
	}
	switch {
	case record.PrivateKeys > 1:
		d.problem("find out which of them matches the recorded public key, and destroy the others with the token's "+
			"tools; kmsgate never destroys an object whose id is recorded",
			"The token has %d private keys with the id of %s, so the gateway uses none of them.",
			record.PrivateKeys, name)
	case record.Use == kms.UseAudit:
		d.problem("restore the token from a backup that has the key",
			"The audit log's private key is not in the token, so checkpoints cannot be signed.")
	default:
		d.problem(fmt.Sprintf(restoreKey, record.KeyId), "The private key of %s is not in the token.", name)
	}
}

func aliasSuffix(aliases []string) string {
	if len(aliases) == 0 {
		return ""
	}
	return ", " + strings.Join(aliases, ", ")
}

// suspectDatabase reports whether the token has more private keys without a record than
// with one. A kill leaves one or two such keys; more of them belong to a newer database, or
// to another instance's.
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
	d.problem("put the right database back, or restore the newest backup with kmsgate restore; until then, kmsgate "+
		"doctor --repair destroys nothing in the token (if these keys must go, use the token's tools)",
		"The token has %d private keys without a record and %d with one, so the database seems to be outdated or "+
			"another instance's.", strays, recorded)
	return true
}

func (d *Diagnosis) stray(o kms.TokenObject) {
	d.strays = append(d.strays, o)
	d.problem("destroy it with kmsgate doctor --repair; but if the database was restored from a backup, look for a "+
		"newer backup first, because keys created after the backup look like this",
		"An object in the token has no record: %s.", describe(o))
}

// describe describes an object in a noun phrase.
func describe(o kms.TokenObject) string {
	if o.Label == "" && o.ObjectId == "" {
		return "an incompletely created object"
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

// examineKeys signs once with every key version that is not missing.
func (dr *Doctor) examineKeys(ctx context.Context, d *Diagnosis, missing map[string]bool) {
	versions, err := target.EveryKeyVersion(ctx, dr.gateway)
	if err != nil {
		d.problem("run kmsgate doctor again", "The keys could not be listed: %v.", err)
		return
	}
	for _, v := range versions {
		if missing[v.KeyVersionId] {
			continue
		}
		_, err := target.TestKeyVersion(ctx, dr.gateway, v, "1")
		switch {
		case err == nil:
		case isNotFound(err): // deleted during the examination
		case errors.Is(err, kms.ErrNoPermission):
			d.note("", "Version %s of key %s could not be tested: its key policy denies signing even to a local "+
				"administrator.",
				v.KeyVersionId, v.KeyId)
		case errors.Is(err, kms.ErrUnavailable):
			d.problem("run kmsgate doctor again when the token is connected and less busy",
				"Version %s of key %s could not be tested: %v.", v.KeyVersionId, v.KeyId, err)
		default:
			d.problem(fmt.Sprintf(restoreKey, v.KeyId), "Version %s of key %s failed its test signature: %v.",
				v.KeyVersionId, v.KeyId, err)
		}
	}
}

// Repair destroys the strays and removes the empty files that an examination found. It
// returns sentences about what it did. The gateway checks each object against its records
// again before it destroys it.
func (dr *Doctor) Repair(ctx context.Context, d *Diagnosis) (repaired []string, err error) {
	for _, o := range d.strays {
		err := dr.gateway.Call(ctx, "DestroyTokenObject", map[string]string{
			"Handle": strconv.FormatUint(uint64(o.Handle), 10), "Class": o.Class,
			"Label": o.Label, "ObjectId": o.ObjectId,
		}, nil)
		// Some tokens destroy a public key together with its private key.
		if err != nil && !errors.Is(err, kms.ErrObjectNotFound) {
			return repaired, fmt.Errorf("destroying %s: %w", describe(o), err)
		}
		repaired = append(repaired, fmt.Sprintf("Destroyed %s.", describe(o)))
	}
	for _, path := range d.empty {
		if err := softhsm.RemoveEmpty(path); err != nil {
			return repaired, fmt.Errorf("removing the empty file %q: %w", path, err)
		}
		repaired = append(repaired, fmt.Sprintf("Removed %q.", path))
	}
	return repaired, nil
}

// isNotFound reports whether err says that a key, a version or a resource does not exist.
func isNotFound(err error) bool {
	return errors.Is(err, kms.ErrKeyNotFound) || errors.Is(err, kms.ErrKeyVersionNotFound) ||
		errors.Is(err, kms.ErrResourceNotFound)
}
