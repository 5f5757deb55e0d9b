package keypair

import (
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// An OwnedKey is a key pair and the record that it belongs to.
type OwnedKey struct {
	kms.Owner
	Key hsm.Key
}

// Owners returns all recorded key pairs with their owners, by CKA_ID.
func Owners(records *store.Records) map[string]OwnedKey {
	all := make(map[string]OwnedKey)
	add := func(key hsm.Key, o kms.Owner) { all[string(key.ID)] = OwnedKey{o, key} }
	for o := range records.Orphans().All() {
		add(o.Key, kms.Owner{Use: kms.UseOrphan, KeyVersionId: o.KeyVersionId})
	}
	if key := records.AuditKey(); key.ID != nil {
		add(key, kms.Owner{Use: kms.UseAudit})
	}
	for k := range records.Keys().All() {
		names := kms.AliasNames{Alias: []string{}} // an empty list is [], not null
		for _, a := range records.AliasesOf(k.KeyId) {
			names.Alias = append(names.Alias, a.AliasName)
		}
		for _, v := range records.VersionsOf(k.KeyId) {
			add(v.Key, kms.Owner{
				Use: kms.UseVersion, KeyId: k.KeyId, KeyVersionId: v.KeyVersionId, KeyState: k.KeyState, Aliases: names,
			})
		}
	}
	return all
}

// OwnerOf returns the owner of an object in the token. making says whether key pairs are being
// made: an object without a CKA_ID may then become one of them, so OwnerOf does not report it as a
// stray.
func OwnerOf(o hsm.Object, records map[string]OwnedKey, making bool) OwnedKey {
	if record, ok := records[string(o.ID)]; ok && o.Ours && fits(o, record) {
		return record
	}
	use := kms.UseStray
	switch {
	case !o.Ours:
		use = kms.UseAnothers
	case o.Purpose == hsm.PurposeSealing:
		use = kms.UseSealing
	case o.Purpose == hsm.PurposeCanary:
		use = kms.UseCanary
	case o.Purpose == hsm.PurposeCounter:
		use = kms.UseCounter
	case making && len(o.ID) == 0:
		use = kms.UseOrphan
	}
	return OwnedKey{Owner: kms.Owner{Use: use, Aliases: kms.AliasNames{Alias: []string{}}}}
}

// fits reports whether an object can be one half of a recorded key pair. The audit log's key has a
// separate purpose, unless an earlier kmsgate made it. The key pair of a version never has that one.
func fits(o hsm.Object, record OwnedKey) bool {
	return o.Purpose == hsm.PurposeKey || o.Purpose == hsm.PurposeAudit && record.Use != kms.UseVersion
}

// Owners returns all currently recorded key pairs with their owners, by CKA_ID.
func (p *Pairs) Owners() map[string]OwnedKey { return Owners(p.cfg.Records.Now()) }
