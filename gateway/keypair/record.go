package keypair

import (
	"bytes"
	"fmt"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// CheckRecord returns kms.ErrKeyUnavailable if the record of a version does not hold the key pair
// that was made for that version. A record with another version's pair would sign with the wrong
// key, and a record with the audit log's key would sign what passes for a line of the log.
func CheckRecord(version store.KeyVersion, key store.Key, auditKey hsm.Key) error {
	id, err := uuid.Parse(version.KeyVersionId)
	if err != nil || !bytes.Equal(id[:], version.Key.ID) || version.Key.Spec != key.KeySpec {
		return fmt.Errorf("%w (the record of version %q holds the key pair %x of KeySpec %q)",
			kms.ErrKeyUnavailable, version.KeyVersionId, version.Key.ID, version.Key.Spec)
	}
	if isAuditKey(version.Key, auditKey) {
		return fmt.Errorf("%w (the record of version %q holds the audit log's key)", kms.ErrKeyUnavailable, version.KeyVersionId)
	}
	return nil
}

// isAuditKey reports whether a key has the id or the public key of the audit log's key.
func isAuditKey(k, auditKey hsm.Key) bool {
	return auditKey.ID != nil && bytes.Equal(k.ID, auditKey.ID) ||
		auditKey.Public != nil && bytes.Equal(k.Public, auditKey.Public)
}

// CheckAuditKey returns an error if the record of a version or of an orphan holds the audit log's
// key. The gateway never writes such a record.
func CheckAuditKey(records *store.Records) error {
	auditKey := records.AuditKey()
	for v := range records.Versions().All() {
		if isAuditKey(v.Key, auditKey) {
			return fmt.Errorf("the record of version %q of key %q holds the audit log's key, so someone has changed the "+
				"database (restore it from a backup with `kmsgate restore`)", v.KeyVersionId, v.KeyId)
		}
	}
	for o := range records.Orphans().All() {
		if isAuditKey(o.Key, auditKey) {
			return fmt.Errorf("the record of the key pair %q, which is to be destroyed, holds the audit log's key, so someone "+
				"has changed the database (restore it from a backup with `kmsgate restore`)", o.KeyVersionId)
		}
	}
	return nil
}
