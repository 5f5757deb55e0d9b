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

// A Verified counts the records that VerifyAll verified.
type Verified struct {
	Keys       int // keys whose versions have all signed
	Versions   int // versions that have signed
	AccessKeys int // access keys whose secret was unsealed
	ClientKeys int // client keys whose record was unsealed
	Due        int // those of Keys whose deletion is due: the gateway deletes them when it starts
}

// ErrForeignToken means that the token does not belong to the records.
var ErrForeignToken = errors.New("the token does not belong to this database")

// A Token is what MatchesToken needs of a token besides the keys that sign for users.
type Token interface {
	hsm.Sealer
	hsm.AuditKeeper
}

// MatchesToken returns ErrForeignToken if the backend and the token do not belong to the records.
// It tries the audit log's key, one software key and one access key. It does not check every key,
// which takes long: see VerifyAll. If the token is unavailable or refuses an operation, or the
// records fail CheckAuditKey, the error is not ErrForeignToken.
func MatchesToken(ctx context.Context, db *store.Store, backend hsm.Backend, token Token) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	records := db.Now()
	if err := CheckAuditKey(records); err != nil {
		return err
	}
	if err := hsm.SelfTest(ctx, token.Audit(), records.AuditKey()); err != nil {
		return foreign("it does not have the audit log's key", err)
	}
	if v, ok := softwareKey(records); ok {
		if err := hsm.SelfTest(ctx, backend, v.Key); err != nil {
			return foreign("it cannot unseal the software keys", err)
		}
	}
	for _, a := range records.AccessKeys().Page(0, 1) {
		if _, err := identity.UnsealAccessKey(ctx, token, a); err != nil {
			return foreign("it cannot unseal the access keys", err)
		}
	}
	return nil
}

// foreign returns ErrForeignToken with a reason. If err does not show that the token is foreign, it
// returns err.
func foreign(reason string, err error) error {
	if hsm.IsTransient(err) || errors.Is(err, hsm.ErrRefused) { // a foreign token would not have the key at all
		return err
	}
	return fmt.Errorf("%w: %s (%w)", ErrForeignToken, reason, err)
}

// softwareKey returns one of the versions whose private keys are sealed, if there is one.
func softwareKey(records *store.Records) (store.KeyVersion, bool) {
	for v := range records.Versions().All() {
		if v.Key.Sealed != nil {
			return v, true
		}
	}
	return store.KeyVersion{}, false
}

// verifyTimeout limits how long one signature or the unsealing of one secret may take. It is long
// because no client waits for it.
const verifyTimeout = 30 * time.Second

// maxFailures is how many failures VerifyAll names.
const maxFailures = 10

// VerifyAll has the backend sign with every version of every key, whatever the key's state, and
// verifies the signatures. It has the sealer unseal the secret of every access key and the record
// of every client key. Its error names the first ten failures and counts the others. Its Verified
// counts the successes. VerifyAll changes nothing.
func VerifyAll(ctx context.Context, db *store.Store, backend hsm.Backend, sealer hsm.Sealer) (Verified, error) {
	records := db.Now()
	vr := verifier{backend: backend, sealer: sealer, auditKey: records.AuditKey()}
	for k := range records.Keys().All() {
		vr.key(ctx, k, records.VersionsOf(k.KeyId))
	}
	for a := range records.AccessKeys().All() {
		vr.accessKey(ctx, a)
	}
	for k := range records.ClientKeys().All() {
		vr.clientKey(ctx, k)
	}
	if vr.failed > len(vr.errs) {
		vr.errs = append(vr.errs, fmt.Errorf("and %d more failures", vr.failed-len(vr.errs)))
	}
	return vr.Verified, errors.Join(append(vr.errs, ctx.Err())...)
}

// A verifier is the state of one call of VerifyAll.
type verifier struct {
	Verified
	backend  hsm.Backend
	sealer   hsm.Sealer
	auditKey hsm.Key
	failed   int
	errs     []error // of the first maxFailures failures
}

func (vr *verifier) fail(err error) {
	if vr.failed++; vr.failed <= maxFailures {
		vr.errs = append(vr.errs, err)
	}
}

func (vr *verifier) key(ctx context.Context, k store.Key, versions []store.KeyVersion) {
	before := vr.failed
	for _, v := range versions {
		if err := vr.version(ctx, k, v); err != nil {
			vr.fail(fmt.Errorf("key %q, version %q: %w", k.KeyId, v.KeyVersionId, err))
			continue
		}
		vr.Versions++
	}
	if vr.failed > before {
		return
	}
	vr.Keys++
	if IsDue(k, time.Now().Round(0)) {
		vr.Due++
	}
}

func (vr *verifier) version(ctx context.Context, k store.Key, v store.KeyVersion) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := CheckRecord(v, k, vr.auditKey); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	return hsm.SelfTest(ctx, vr.backend, v.Key)
}

func (vr *verifier) accessKey(ctx context.Context, a store.AccessKey) {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	if _, err := identity.UnsealAccessKey(ctx, vr.sealer, a); err != nil {
		vr.fail(fmt.Errorf("access key %q of user %q: %w", a.AccessKeyId, a.UserName, err))
		return
	}
	vr.AccessKeys++
}

func (vr *verifier) clientKey(ctx context.Context, k store.ClientKey) {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	if err := identity.UnsealClientKey(ctx, vr.sealer, k); err != nil {
		vr.fail(fmt.Errorf("client key %q of access point %q: %w", k.ClientKeyId, k.AapName, err))
		return
	}
	vr.ClientKeys++
}
