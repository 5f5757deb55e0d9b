package hsmtest

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/kmsgate/kmsgate/hsm"
)

var _ hsm.Inspector = (*Fake)(nil)

// remember keeps k for Objects. The caller holds f.mu.
func (f *Fake) remember(k hsm.Key) hsm.Key {
	if f.made == nil {
		f.made = make(map[string]hsm.Key)
	}
	f.made[string(k.ID)] = k
	return k
}

// Plant adds objects to the list of Objects and assigns their handles.
func (f *Fake) Plant(objects ...hsm.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.planted = append(f.planted, objects...)
	for i := range f.planted {
		f.planted[i].Handle = uint(1 + i)
	}
}

// Lose removes a key's private half and leaves its public half, as if another application had
// deleted it. putBack restores the private half.
func (f *Fake) Lose(k hsm.Key) (putBack func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sign := f.keys[string(k.ID)]
	delete(f.keys, string(k.ID))
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.keys[string(k.ID)] = sign
	}
}

// Swap exchanges the private halves of two keys.
func (f *Fake) Swap(k, other hsm.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[string(k.ID)], f.keys[string(other.ID)] = f.keys[string(other.ID)], f.keys[string(k.ID)]
}

// Survey describes a token that offers every KeySpec.
func (f *Fake) Survey(ctx context.Context) (hsm.Survey, error) {
	s := hsm.Survey{
		Module: hsm.ModuleInfo{Description: "a fake"}, Token: hsm.TokenInfo{Label: "fake"}, Sealing: hsm.SealAESGCM,
	}
	for _, spec := range hsm.KeySpecs() {
		s.Offers = append(s.Offers, hsm.Offer{KeySpec: spec, Offered: true, Software: spec == hsm.EC_SM2})
	}
	return s, f.failure(ctx)
}

// Objects lists the planted objects and both halves of every key.
func (f *Fake) Objects(ctx context.Context) ([]hsm.Object, error) {
	if err := f.failure(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.Clone(f.planted)
	for i, id := range slices.Sorted(maps.Keys(f.made)) {
		k := f.made[id]
		o := hsm.Object{
			Handle: uint(1001 + 2*i), Class: hsm.ClassPublicKey, Label: "kmsgate", ID: k.ID,
			KeySpec: k.Spec, Public: k.Public, Ours: true, Purpose: hsm.PurposeKey,
		}
		if f.audit[string(k.ID)] {
			o.Label, o.Purpose = "kmsgate-audit", hsm.PurposeAudit
		}
		all = append(all, o)
		if _, ok := f.keys[id]; ok {
			o.Handle, o.Class, o.Public = o.Handle+1, hsm.ClassPrivateKey, nil
			all = append(all, o)
		}
	}
	return all, nil
}

// Attributes reports that a key cannot leave the token.
func (f *Fake) Attributes(ctx context.Context, k hsm.Key) ([]hsm.Attribute, error) {
	if err := f.failure(ctx); err != nil {
		return nil, err
	}
	return []hsm.Attribute{{Name: "CKA_ID", Value: hex.EncodeToString(k.ID)}, {Name: "CKA_EXTRACTABLE", Value: "false"}}, f.Has(k)
}

// DestroyObject removes a planted object.
func (f *Fake) DestroyObject(ctx context.Context, o hsm.Object) error {
	if err := f.failure(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.planted, func(p hsm.Object) bool { return reflect.DeepEqual(p, o) })
	if i < 0 {
		return fmt.Errorf("%w: handle %d", hsm.ErrNotFound, o.Handle)
	}
	f.planted = slices.Delete(slices.Clone(f.planted), i, i+1)
	return nil
}
