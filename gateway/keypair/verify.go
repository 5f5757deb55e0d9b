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

// A Verified counts what VerifyAll found to work.
type Verified struct {
	Keys       int // keys whose versions have all signed
	Versions   int // versions that have signed
	AccessKeys int // access keys whose secret was unsealed
	ClientKeys int // client keys whose record was unsealed
	Due        int // how many of Keys are due: the gateway deletes them when it starts
}

// ErrForeignToken: the token does not belong to the records.
var ErrForeignToken = errors.New("the token is not the one that this database belongs to")

// MatchesToken returns an error that is ErrForeignToken if the backend and the sealer do not
// belong to the records. It tries the audit log's key, one software key and one access
// key. It does not look for every key, which takes long: see VerifyAll. A token that is
// unavailable or refuses is another error.
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

// foreign returns an ErrForeignToken, or err if it says nothing about whose the token is.
func foreign(what string, err error) error {
	if hsm.IsTransient(err) || errors.Is(err, hsm.ErrRefused) { // another token would not have the key at all
		return err
	}
	return fmt.Errorf("%w: %s (%w)", ErrForeignToken, what, err)
}

// softwareKey returns one of the versions whose private keys are sealed.
func softwareKey(records *store.Records) (store.KeyVersion, bool) {
	for v := range records.Versions().All() {
		if v.Key.Sealed != nil {
			return v, true
		}
	}
	return store.KeyVersion{}, false
}

// verifyTime is how long one signature or one secret may take. No client waits for it.
const verifyTime = 30 * time.Second

// maxFailures is how many failures VerifyAll names.
const maxFailures = 10

// VerifyAll has the backend sign with every version of every key, whatever the key's state,
// and verifies the signatures. It has the sealer unseal the secret of every access key and
// the record of every client key. Its error names the first maxFailures failures and
// counts the others; Verified counts the rest. It changes nothing.
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

// A verifier is the state of one VerifyAll.
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
