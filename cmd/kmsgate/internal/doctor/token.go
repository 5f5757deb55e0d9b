package doctor

import (
	"context"
	"fmt"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/softhsm"
)

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

// compare compares the objects in the token with the records. It returns the ids of the key
// versions without a private key, or nil if it could not compare.
func (dr *Doctor) compare(ctx context.Context, d *Diagnosis, empty []softhsm.Finding) (missing map[string]bool) {
	var answer kms.ListTokenObjectsResponse
	if err := dr.gateway.Call(ctx, "ListTokenObjects", nil, &answer); err != nil {
		d.problem("run kmsgate doctor again when the token is less busy",
			"The token could not be compared with the records: %v.", err)
		return nil
	}
	missing = make(map[string]bool)
	for _, record := range answer.Deviations.Deviation {
		missing[record.KeyVersionId] = true
		d.deviation(record)
	}
	d.objects(answer.Objects.Object)
	d.emptyFiles(empty, len(missing) > 0)
	return missing
}

// objects reports the objects in the token that no record mentions, or that differ from their
// record.
func (d *Diagnosis) objects(all []kms.TokenObject) {
	var strays []kms.TokenObject
	unlabelled := 0
	for _, o := range all {
		switch {
		case o.Use == kms.UseStray:
			strays = append(strays, o)
		case o.Use == kms.UseAnothers:
			unlabelled++
		case o.OtherPublicKey:
			d.problem("check whether a finding below says that the version does not sign; if none does, only this "+
				"public key is wrong, and the gateway does not use it",
				"The token's public key with the id of version %s of key %s differs from the recorded public key.",
				o.KeyVersionId, o.KeyId)
		}
	}
	if !d.suspectDatabase(all, strays) {
		for _, o := range strays {
			d.stray(o)
		}
	}
	if unlabelled > 0 {
		d.note("", "Objects in the token without kmsgate's label, which the gateway leaves alone: %d.", unlabelled)
	}
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
// to another instance's. All strays then have this one cause.
func (d *Diagnosis) suspectDatabase(all, strays []kms.TokenObject) bool {
	unrecorded, recorded := 0, 0
	for _, o := range all {
		switch {
		case o.Class != hsm.ClassPrivateKey:
		case o.Use == kms.UseStray:
			unrecorded++
		case o.KeyVersionId != "" || o.Use == kms.UseAudit:
			recorded++
		}
	}
	if unrecorded <= recorded {
		return false
	}
	d.problem("put the right database back, or restore the newest backup with kmsgate restore; until then, kmsgate "+
		"doctor --repair destroys nothing in the token (if these keys must go, use the token's tools)",
		"The token has %d private keys without a record and %d with one, so the database seems to be outdated or "+
			"another instance's.", unrecorded, recorded)
	cause := &d.Findings[len(d.Findings)-1]
	for _, o := range strays {
		cause.Symptoms = append(cause.Symptoms, fmt.Sprintf("An object in the token has no record: %s.", describe(o)))
	}
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
