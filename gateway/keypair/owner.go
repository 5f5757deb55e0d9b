package keypair

import (
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// A Recorded is a key pair with the record that it belongs to.
type Recorded struct {
	kms.Owner
	Key hsm.Key
}

// Owners returns the owners of all recorded key pairs, by CKA_ID.
func Owners(records *store.Records) map[string]Recorded {
	all := make(map[string]Recorded)
	add := func(key hsm.Key, o kms.Owner) { all[string(key.ID)] = Recorded{o, key} }
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
			add(v.Key, kms.Owner{Use: kms.UseVersion, KeyId: k.KeyId, KeyVersionId: v.KeyVersionId, KeyState: k.KeyState, Aliases: names})
		}
	}
	return all
}

// OwnerOf returns the owner of an object in the token. While key pairs are being made, an
// object without an id may become one of them, so it is no stray.
func OwnerOf(o hsm.Object, records map[string]Recorded, making bool) Recorded {
	if record, ok := records[string(o.ID)]; ok && o.Ours && o.Purpose == hsm.PurposeKey {
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
	case making && len(o.ID) == 0:
		use = kms.UseOrphan
	}
	return Recorded{Owner: kms.Owner{Use: use, Aliases: kms.AliasNames{Alias: []string{}}}}
}

// Owners returns all records of key pairs as they are now, by CKA_ID.
func (p *Pairs) Owners() map[string]Recorded { return Owners(p.cfg.Records.Now()) }
