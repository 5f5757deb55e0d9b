package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A keyExamination lets key versions sign until its time is over.
type keyExamination struct {
	gateway target.Caller
	found   *Diagnosis
	missing map[string]bool // the key versions that cannot sign, by KeyVersionId

	began       time.Time            // of the latest test signature
	unavailable []kms.KeyVersionItem // the versions that could not be tested
	firstErr    error                // why the first of them could not be tested
}

// examineKeys signs once with every key version that is not missing, until ctx is done. It
// then reports how many keys it has tested.
func (dr *Doctor) examineKeys(ctx context.Context, d *Diagnosis, missing map[string]bool) {
	limit, _ := ctx.Deadline()
	all := time.Until(limit)
	e := &keyExamination{gateway: dr.gateway, found: d, missing: missing, began: time.Now()}
	keys, err := target.Keys.All(ctx, dr.gateway, nil)
	if err != nil && ctx.Err() == nil {
		d.problem("run kmsgate doctor again", "The keys could not be listed: %v.", err)
		return
	}
	tested := 0
	for _, k := range keys {
		if !e.test(ctx, k.KeyId) {
			break
		}
		tested++
	}
	e.reportUnavailable()
	switch {
	case err == nil && tested == len(keys):
		return
	case err != nil, time.Since(e.began) > all/2:
		d.problem(tokenAdvice+waitAdvice, "The time was over when %d of %d keys had been tested: listing the keys, or the "+
			"latest test signature, hangs or is slow.", tested, len(keys))
	default:
		d.note("give the doctor more time, such as kmsgate doctor --timeout 10m, or test all keys with kmsgate token test",
			"The time was over when %d of %d keys had been tested. Nothing is known about the others.", tested, len(keys))
	}
	d.Incomplete = true
}

// test signs with every version of a key. It reports whether the time sufficed.
func (e *keyExamination) test(ctx context.Context, keyId string) bool {
	versions, err := target.KeyVersions.All(ctx, e.gateway, map[string]string{"KeyId": keyId})
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil && !isNotFound(err):
		e.found.problem("run kmsgate doctor again", "The versions of key %s could not be listed: %v.", keyId, err)
	}
	for _, v := range versions {
		if e.missing[v.KeyVersionId] {
			continue
		}
		e.began = time.Now()
		_, err := target.TestKeyVersion(ctx, e.gateway, v, "1")
		if err != nil && ctx.Err() != nil {
			return false
		}
		e.judge(v, err)
	}
	return true
}

// judge reports the result of a test signature.
func (e *keyExamination) judge(v kms.KeyVersionItem, err error) {
	switch {
	case err == nil:
	case isNotFound(err): // deleted during the examination
	case errors.Is(err, kms.ErrNoPermission):
		e.found.note("", "Version %s of key %s could not be tested: its key policy denies signing even to a local "+
			"administrator.",
			v.KeyVersionId, v.KeyId)
	case errors.Is(err, kms.ErrUnavailable):
		if e.unavailable == nil {
			e.firstErr = err
		}
		e.unavailable = append(e.unavailable, v)
	default:
		e.found.problem(fmt.Sprintf(restoreKey, v.KeyId), "Version %s of key %s failed its test signature: %v.",
			v.KeyVersionId, v.KeyId, err)
	}
}

// maxSymptoms is the maximum number of symptoms that are listed beneath a finding.
const maxSymptoms = 10

// reportUnavailable adds one problem for all versions that could not be tested: the token, or
// the gateway, is unavailable to all of them for the same reason.
func (e *keyExamination) reportUnavailable() {
	if e.unavailable == nil {
		return
	}
	f := Finding{Severity: Problem, Do: "run kmsgate doctor again when the token is connected and less busy"}
	for i, v := range e.unavailable {
		switch {
		case i == 0:
			f.What = fmt.Sprintf("Version %s of key %s could not be tested: %v.", v.KeyVersionId, v.KeyId, e.firstErr)
		case i <= maxSymptoms:
			f.Symptoms = append(f.Symptoms, fmt.Sprintf("Version %s of key %s could not be tested either.", v.KeyVersionId, v.KeyId))
		}
	}
	if more := len(e.unavailable) - 1 - maxSymptoms; more > 0 {
		f.Symptoms = append(f.Symptoms, fmt.Sprintf("Further versions that could not be tested: %d.", more))
	}
	e.found.Findings = append(e.found.Findings, f)
}
