package doctor

import (
	"context"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// expiryNotice is how long before its expiry a client key is reported. It leaves the operator
// time to give the program another key.
const expiryNotice = 30 * 24 * time.Hour

// examineClientKeys reports client keys that have expired or will expire within expiryNotice.
func (dr *Doctor) examineClientKeys(ctx context.Context, d *Diagnosis, now time.Time) {
	var answer kms.ListClientKeysResponse
	if err := dr.gateway.Call(ctx, "ListClientKeys", nil, &answer); err != nil {
		d.problem("run kmsgate doctor again", "The client keys could not be listed: %v.", err)
		return
	}
	for _, k := range answer.ClientKeys {
		expiry, err := time.Parse(kms.TimeLayout, k.NotAfter)
		switch {
		case err != nil:
			d.problem("create another with kmsgate clientkey create, and delete this one with kmsgate clientkey delete",
				"The client key %s of access point %s has an unreadable expiry date: %v.",
				k.ClientKeyId, k.AapName, err)
		case expiry.Before(now):
			d.note("delete it with kmsgate clientkey delete if no program needs it; otherwise create another with "+
				"kmsgate clientkey create",
				"The client key %s of access point %s expired at %s.", k.ClientKeyId, k.AapName, k.NotAfter)
		case expiry.Before(now.Add(expiryNotice)):
			d.note("create another with kmsgate clientkey create, give it to the program, and delete this one with "+
				"kmsgate clientkey delete",
				"The client key %s of access point %s expires at %s.", k.ClientKeyId, k.AapName, k.NotAfter)
		}
	}
}
