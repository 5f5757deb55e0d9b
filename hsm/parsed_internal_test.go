package hsm

import (
	"encoding/binary"
	"testing"
)

// TestParsedKeys stores more keys than are kept.
func TestParsedKeys(t *testing.T) {
	keys := parsedKeys{keys: make(map[parsedId]publicKey)}
	for i := range uint32(maxParsed + 10) {
		k := Key{Spec: EC_P256, Public: binary.BigEndian.AppendUint32(nil, i)}
		keys.put(k, i)
		if pub, ok := keys.get(k); !ok || pub != i {
			t.Fatalf("key %d: got %v, %v, want it", i, pub, ok)
		}
		k.Spec = EC_SM2
		if pub, ok := keys.get(k); ok {
			t.Fatalf("key %d with another KeySpec: got %v, want none", i, pub)
		}
	}
	if len(keys.keys) != maxParsed {
		t.Errorf("got %d keys, want %d", len(keys.keys), maxParsed)
	}
}

// TestListsAreClipped checks that appending to a list, which all callers share, copies it.
func TestListsAreClipped(t *testing.T) {
	for _, spec := range KeySpecs() {
		if list := Algorithms(spec); cap(list) != len(list) || cap(KeySpecs()) != len(KeySpecs()) {
			t.Errorf("Algorithms(%s) has %d elements of %d and KeySpecs %d of %d, want all", spec, len(list), cap(list),
				len(KeySpecs()), cap(KeySpecs()))
		}
	}
}
