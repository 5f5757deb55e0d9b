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

// AuditPublicKey returns the public half of the key that signs the audit log's
// checkpoints, as a DER-encoded SubjectPublicKeyInfo.
func (a *Appliance) AuditPublicKey() []byte { return a.Store.Now().AuditKey().Public }

// SignWithAuditKey signs a SHA-256 digest with the audit log's key. [audit.Signed] verifies
// the signature with an [audit.PublicKey].
func (a *Appliance) SignWithAuditKey(ctx context.Context, digest []byte) ([]byte, error) {
	return a.signWith(ctx, a.Store.Now().AuditKey(), digest)
}

func (a *Appliance) signWith(ctx context.Context, key hsm.Key, digest []byte) ([]byte, error) {
	algorithm := hsm.RSA_PKCS1_SHA_256
	if key.Spec == hsm.EC_P256 {
		algorithm = hsm.ECDSA_SHA_256
	}
	return auditKeys(a).Sign(ctx, key, algorithm, digest)
}

// auditKeys returns the backend of the audit log's key, which signs nothing else.
func auditKeys(a *Appliance) hsm.Backend { return hsm.NewRoute(a.token.Audit(), a.options.Logger) }

// ensureAuditKey creates the key that signs the audit log's checkpoints if it is missing,
// reserves it in the token, and writes its public half to a file for auditors.
func (a *Appliance) ensureAuditKey(ctx context.Context) error {
	key := a.Store.Now().AuditKey()
	if key.ID == nil {
		if !a.options.Provision {
			return ErrNotInitialized
		}
		created, err := a.newAuditKey(ctx)
		if err != nil {
			return fmt.Errorf("creating the audit log's key: %w", err)
		}
		key = created
	}
	a.token.Reserve(key.ID)
	path := a.Config.AuditPublicKeyFile()
	if existing, err := os.ReadFile(path); err == nil {
		if block, _ := pem.Decode(existing); block != nil && !bytes.Equal(block.Bytes, key.Public) {
			return fmt.Errorf("the audit public key %q does not match the database %q: one of them belongs to another "+
				"instance (put the right file back; if the database is right, remove %[1]q and the gateway writes it "+
				"again)",
				path, a.Config.Store.File)
		}
	}
	return durable.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key.Public}), 0o644)
}

// newAuditKey creates an EC_P256 key, or an RSA_2048 key in a token without elliptic curves.
func (a *Appliance) newAuditKey(ctx context.Context) (hsm.Key, error) {
	key, err := a.createAuditKey(ctx, hsm.EC_P256)
	if errors.Is(err, hsm.ErrKeySpec) {
		key, err = a.createAuditKey(ctx, hsm.RSA_2048)
	}
	return key, err
}

// createAuditKey creates and records a key. Until then the key pair is recorded as an orphan:
// if this process is killed, the gateway destroys the pair at its next start.
func (a *Appliance) createAuditKey(ctx context.Context, spec hsm.KeySpec) (hsm.Key, error) {
	id := uuid.New()
	orphan := store.Orphan{KeyVersionId: id.String(), Key: hsm.Key{ID: id[:], Spec: spec}}
	if err := a.Store.Update(func(tx *store.Tx) error { return tx.Orphans().Put(orphan) }); err != nil {
		return hsm.Key{}, err
	}
	key, err := auditKeys(a).Generate(ctx, spec, id[:])
	if err != nil {
		return hsm.Key{}, err
	}
	return key, a.Store.Update(func(tx *store.Tx) error {
		return errors.Join(tx.SetAuditKey(key), tx.Orphans().Delete(orphan.KeyVersionId))
	})
}

// acceptAuditLossHint is the advice for an operator whose audit log has lost lines.
const acceptAuditLossHint = "put the right file back; if it is lost, start once with --accept-audit-loss"

// openAudit opens the log. restored is the head of the backup that the database was restored
// from; it is nil if the database was not restored.
func (a *Appliance) openAudit(ctx context.Context, restored *audit.Checkpoint) (*audit.Log, error) {
	records := a.Store.Now()
	head, key := records.AuditHead(), records.AuditKey()
	var pending uint64 // the last line that an outbox record follows
	for o := range records.Outbox().All() {
		pending = max(pending, o.After)
	}
	public, err := audit.DecodePublicKey(key.Public)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log's key in the database: %w", err)
	}
	counted, err := counted(ctx, a.token, records.Number())
	if err != nil {
		return nil, err
	}
	var rollback *audit.Rollback
	if r := store.RollbackOf(records); r != (store.Rollback{}) {
		rollback = (*audit.Rollback)(&r)
	}
	c := a.Config.Audit
	log, err := audit.Open(audit.Config{
		Path: c.File, CheckpointEvery: c.CheckpointEvery,
		RotateSize: int64(c.RotateSize), RotateAge: c.RotateAge, WarnFree: uint64(c.WarnFree), Reserve: uint64(c.Reserve),
		RetainSize: int64(c.KeepSize), RetainAge: c.KeepAge,
		Logger:  a.options.Logger,
		Trusted: func() bool { return a.clock != nil && a.clock.Problem() == "" },
		Expect:  audit.Head{Seq: head.Seq, Hash: head.Hash}, Ended: head.Ended, MinSeq: pending, Restored: restored,
		Changes: func() uint64 { return a.Store.Now().Number() }, SeenChange: counted,
		AcceptRollback: a.options.AcceptStoreRollback, Rollback: rollback,
		KeepRollback: func(r audit.Rollback) error {
			if restored != nil { // the operator has chosen the backup, and what happens to keys that are due
				return catchUp(a.Store, r.Seen, store.Rollback{})
			}
			return catchUp(a.Store, r.Seen, store.Rollback(r))
		},
		AcceptLoss: a.options.AcceptAuditLoss, AcceptLossHint: acceptAuditLossHint,
		Sign: func(ctx context.Context, digest []byte) ([]byte, error) { return a.signWith(ctx, key, digest) },
		Key:  public,
		Keep: func(c audit.Checkpoint, ended bool) error {
			head := headOf(c)
			head.Ended = ended
			return a.Store.Update(func(tx *store.Tx) error { return tx.SetAuditHead(head) })
		},
	})
	// `kmsgate restore` has no --accept-audit-loss, so the hint would not help there.
	if loss := new(audit.LossError); errors.As(err, &loss) && restored == nil {
		err = fmt.Errorf("%w (%s)", err, acceptAuditLossHint)
	}
	if err != nil {
		return nil, explainRollback(err)
	}
	return log, nil
}

func headOf(c audit.Checkpoint) store.AuditHead {
	return store.AuditHead{Seq: c.Seq, Hash: c.Hash, Time: c.Time, Signature: c.Signature}
}

// ContinueLog continues the audit log of a restored appliance after the backup's head, and
// records that in the log. With keepDueKeys it then cancels the deletions that a gateway
// would carry out at its start. opened reports whether the log's files were taken over; it
// can be true although err is not nil.
func (a *Appliance) ContinueLog(ctx context.Context, head audit.Checkpoint, keepDueKeys bool) (opened bool, err error) {
	if err := a.Store.Update(func(tx *store.Tx) error { return tx.SetAuditHead(headOf(head)) }); err != nil {
		return false, err
	}
	log, err := a.openAudit(ctx, &head)
	if err != nil {
		return false, fmt.Errorf("%w (if these files belong to another instance, move them away: the log then starts "+
			"after line %d)",
			err, head.Seq)
	}
	if keepDueKeys {
		err = keypair.KeepDueKeys(a.Store, log, fmt.Sprintf("local:%d", os.Getuid()), time.Now, a.options.Logger)
	}
	return true, errors.Join(err, log.Close())
}
