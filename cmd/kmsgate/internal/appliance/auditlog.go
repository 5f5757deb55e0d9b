package appliance

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/durable"
	"github.com/kmsgate/kmsgate/store"
)

// hasAuditKey reports whether provisioning the token was completed: the audit log's key
// is made last.
func (a *Appliance) hasAuditKey() bool { return a.Store.Now().AuditKey().ID != nil }

// AuditPublicKey returns the public half of the key that signs the audit log's
// checkpoints: SubjectPublicKeyInfo, DER.
func (a *Appliance) AuditPublicKey() []byte { return a.Store.Now().AuditKey().Public }

// SignWithAuditKey signs a SHA-256 digest with the audit log's key, for an
// [audit.PublicKey] to check with [audit.Signed].
func (a *Appliance) SignWithAuditKey(ctx context.Context, digest []byte) ([]byte, error) {
	return a.signWith(ctx, a.Store.Now().AuditKey(), digest)
}

func (a *Appliance) signWith(ctx context.Context, key hsm.Key, digest []byte) ([]byte, error) {
	algorithm := hsm.RSA_PKCS1_SHA_256
	if key.Spec == hsm.EC_P256 {
		algorithm = hsm.ECDSA_SHA_256
	}
	return a.keys.Sign(ctx, key, algorithm, digest)
}

// ensureAuditKey makes the key that signs the audit log's checkpoints if it is missing,
// and writes its public half to a file for auditors.
func (a *Appliance) ensureAuditKey(ctx context.Context) error {
	key := a.Store.Now().AuditKey()
	if key.ID == nil {
		if !a.options.Provision {
			return ErrNotInitialized
		}
		made, err := a.newAuditKey(ctx)
		if err != nil {
			return fmt.Errorf("making the audit log's key: %w", err)
		}
		key = made
	}
	path := a.Config.AuditPublicKeyFile()
	if before, err := os.ReadFile(path); err == nil {
		if block, _ := pem.Decode(before); block != nil && !bytes.Equal(block.Bytes, key.Public) {
			return fmt.Errorf("%s is not the public half of the audit key that the database %s has: one of them belongs to another instance. Put the right one back; if the database is the right one, remove %[1]s, and the gateway writes it again", path, a.Config.Store.File)
		}
	}
	return durable.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key.Public}), 0o644)
}

// newAuditKey makes the key: on P-256, or RSA for a token without curves.
func (a *Appliance) newAuditKey(ctx context.Context) (hsm.Key, error) {
	key, err := a.makeAuditKey(ctx, hsm.EC_P256)
	if errors.Is(err, hsm.ErrKeySpec) {
		key, err = a.makeAuditKey(ctx, hsm.RSA_2048)
	}
	return key, err
}

// makeAuditKey makes the key. Until it is recorded it is an orphan, which the gateway
// destroys at its next start.
func (a *Appliance) makeAuditKey(ctx context.Context, spec hsm.KeySpec) (hsm.Key, error) {
	id := uuid.New()
	orphan := store.Orphan{KeyVersionId: id.String(), Key: hsm.Key{ID: id[:], Spec: spec}}
	if err := a.Store.Update(func(tx *store.Tx) error { return tx.Orphans().Put(orphan) }); err != nil {
		return hsm.Key{}, err
	}
	key, err := a.keys.Generate(ctx, spec, id[:])
	if err != nil {
		return hsm.Key{}, err
	}
	return key, a.Store.Update(func(tx *store.Tx) error {
		return errors.Join(tx.SetAuditKey(key), tx.Orphans().Delete(orphan.KeyVersionId))
	})
}

// acceptAuditLossHint tells an operator what helps when audit lines are gone.
const acceptAuditLossHint = "put the right file back; if it is gone for good, start once with --accept-audit-loss"

// openAudit opens the log. restored is the head of the backup that the database comes
// from, nil if it comes from none.
func (a *Appliance) openAudit(restored *audit.Checkpoint) (*audit.Log, error) {
	records := a.Store.Now()
	kept, key := records.AuditHead(), records.AuditKey()
	var least uint64
	for o := range records.Outbox().All() {
		least = max(least, o.After)
	}
	c := a.Config.Audit
	log, err := audit.Open(audit.Config{
		Path: c.File, CheckpointEvery: c.CheckpointEvery, RotateSize: int64(c.RotateSize), RotateAge: c.RotateAge, WarnFree: uint64(c.WarnFree),
		Logger: a.options.Logger,
		Expect: audit.Head{Seq: kept.Seq, Hash: kept.Hash}, Ended: kept.Ended, AtLeast: least, Restored: restored,
		AcceptLoss: a.options.AcceptAuditLoss, AcceptLossHint: acceptAuditLossHint,
		Sign: func(ctx context.Context, digest []byte) ([]byte, error) { return a.signWith(ctx, key, digest) },
		Keep: func(c audit.Checkpoint, ended bool) error {
			head := headOf(c)
			head.Ended = ended
			return a.Store.Update(func(tx *store.Tx) error { return tx.SetAuditHead(head) })
		},
	})
	if loss := new(audit.LossError); errors.As(err, &loss) && restored == nil { // kmsgate restore has no such flag
		err = fmt.Errorf("%w (%s)", err, acceptAuditLossHint)
	}
	return log, err
}

func headOf(c audit.Checkpoint) store.AuditHead {
	return store.AuditHead{Seq: c.Seq, Hash: c.Hash, Time: c.Time, Signature: c.Signature}
}

// ContinueLog has the audit log of an appliance that was restored go on behind the
// backup's head, and says so in the log. With keepDueKeys it then cancels the deletions
// that a gateway would carry out at its start. opened reports whether the log's files
// were taken over, which an error can follow.
func (a *Appliance) ContinueLog(head audit.Checkpoint, keepDueKeys bool) (opened bool, err error) {
	if err := a.Store.Update(func(tx *store.Tx) error { return tx.SetAuditHead(headOf(head)) }); err != nil {
		return false, err
	}
	log, err := a.openAudit(&head)
	if err != nil {
		return false, fmt.Errorf("%w. If these files are not this instance's, take them away: the log then begins behind line %d", err, head.Seq)
	}
	if keepDueKeys {
		err = keypair.KeepDueKeys(a.Store, log, fmt.Sprintf("local:%d", os.Getuid()), time.Now, a.options.Logger)
	}
	return true, errors.Join(err, log.Close())
}
