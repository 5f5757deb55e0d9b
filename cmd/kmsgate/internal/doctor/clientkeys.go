package doctor

import (
	"context"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// expiresSoon is how long before its end a client key is spoken of: time enough to
// give its program another one.
const expiresSoon = 30 * 24 * time.Hour

// examineClientKeys says which client keys are past their time, or soon will be.
func (dr *Doctor) examineClientKeys(ctx context.Context, d *Diagnosis, now time.Time) {
	var answer kms.ListClientKeysResponse
	if err := dr.gateway.Call(ctx, "ListClientKeys", nil, &answer); err != nil {
		d.problem("ask again", "The client keys could not be listed: %v.", err)
		return
	}
	for _, k := range answer.ClientKeys {
		until, err := time.Parse(kms.TimeLayout, k.NotAfter)
		switch {
		case err != nil:
			d.problem("delete it (kmsgate clientkey delete) and create another", "Of the client key %s of access point %s it is not known until when it is good: %v.", k.ClientKeyId, k.AapName, err)
		case until.Before(now):
			d.note("delete it (kmsgate clientkey delete) if no program needs it, or create another", "The client key %s of access point %s was good until %s.", k.ClientKeyId, k.AapName, k.NotAfter)
		case until.Before(now.Add(expiresSoon)):
			d.note("create another one (kmsgate clientkey create), give it to the program, and delete this", "The client key %s of access point %s is good until %s only.", k.ClientKeyId, k.AapName, k.NotAfter)
		}
	}
}
