package keypair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// A Verified says what was found to work.
type Verified struct {
	Keys       int // whose versions have all signed
	Versions   int // that have signed
	AccessKeys int // whose secret was unsealed
	ClientKeys int // whose record was
	Due        int // keys among them that are deleted at the gateway's next start: their time has come
}

// ErrForeignToken: the token is not the one that the records belong to.
var ErrForeignToken = errors.New("the token is not the one that this database belongs to")

// MatchesToken reports an error, ErrForeignToken, if the backend and the sealer are not
// those of the records. It tries what every instance has: the audit log's key, one
// of the software keys and one of the access keys. Whether each key is there it
// does not look at: that takes long.
func MatchesToken(ctx context.Context, db *store.Store, backend hsm.Backend, sealer hsm.Sealer) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	records := db.Now()
	if err := hsm.SelfTest(ctx, backend, records.AuditKey()); err != nil {
		return foreign("it does not have the audit log's key", err)
	}
	if v, ok := softwareKey(records); ok {
		if err := hsm.SelfTest(ctx, backend, v.Key); err != nil {
			return foreign("it does not unseal the software keys", err)
		}
	}
	for _, a := range records.AccessKeys().Page(0, 1) {
		if _, err := identity.UnsealAccessKey(ctx, sealer, a); err != nil {
			return foreign("it does not unseal the access keys", err)
		}
	}
	return nil
}

// foreign says so, unless the token was away.
func foreign(what string, err error) error {
	if hsm.IsTransient(err) || errors.Is(err, hsm.ErrRefused) { // another token would not have the key at all
		return err
	}
	return fmt.Errorf("%w: %s (%w)", ErrForeignToken, what, err)
}

// softwareKey gives one of the versions whose private keys are sealed.
func softwareKey(records *store.Records) (store.KeyVersion, bool) {
	for v := range records.Versions().All() {
		if v.Key.Sealed != nil {
			return v, true
		}
	}
	return store.KeyVersion{}, false
}

// verifyTime is how long one signature or one secret may take. Nobody waits for
// it.
const verifyTime = 30 * time.Second

// maxFailures is how many failures a VerifyAll names.
const maxFailures = 10

// VerifyAll has the backend sign with every version of every key that there is a
// record of, whatever the key's state, checks the signatures, and unseals the
// secret of every access key and the record of every client key. Its error names what does not work; Verified is of
// the rest. It changes nothing.
func VerifyAll(ctx context.Context, db *store.Store, backend hsm.Backend, sealer hsm.Sealer) (Verified, error) {
	p := verifier{backend: backend, sealer: sealer}
	records := db.Now()
	for k := range records.Keys().All() {
		p.key(ctx, k, records.VersionsOf(k.KeyId))
	}
	for a := range records.AccessKeys().All() {
		p.accessKey(ctx, a)
	}
	for k := range records.ClientKeys().All() {
		p.clientKey(ctx, k)
	}
	if p.failed > len(p.errs) {
		p.errs = append(p.errs, fmt.Errorf("and %d more", p.failed-len(p.errs)))
	}
	return p.Verified, errors.Join(append(p.errs, ctx.Err())...)
}

// A verifier is a VerifyAll on its way.
type verifier struct {
	Verified
	backend hsm.Backend
	sealer  hsm.Sealer
	failed  int
	errs    []error // of the first maxFailures of them
}

func (p *verifier) fail(err error) {
	if p.failed++; p.failed <= maxFailures {
		p.errs = append(p.errs, err)
	}
}

func (p *verifier) key(ctx context.Context, k store.Key, versions []store.KeyVersion) {
	before := p.failed
	for _, v := range versions {
		if err := p.version(ctx, k, v); err != nil {
			p.fail(fmt.Errorf("key %s, version %s: %w", k.KeyId, v.KeyVersionId, err))
			continue
		}
		p.Versions++
	}
	if p.failed > before {
		return
	}
	p.Keys++
	if IsDue(k, time.Now()) {
		p.Due++
	}
}

func (p *verifier) version(ctx context.Context, k store.Key, v store.KeyVersion) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := CheckRecord(v, k); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	return hsm.SelfTest(ctx, p.backend, v.Key)
}

func (p *verifier) accessKey(ctx context.Context, a store.AccessKey) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	if _, err := identity.UnsealAccessKey(ctx, p.sealer, a); err != nil {
		p.fail(fmt.Errorf("access key %s of user %s: %w", a.AccessKeyId, a.UserName, err))
		return
	}
	p.AccessKeys++
}

func (p *verifier) clientKey(ctx context.Context, k store.ClientKey) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	if err := identity.UnsealClientKey(ctx, p.sealer, k); err != nil {
		p.fail(fmt.Errorf("client key %s of access point %s: %w", k.ClientKeyId, k.AapName, err))
		return
	}
	p.ClientKeys++
}
