package gateway

import (
	"testing"

	"github.com/google/uuid"
)

// TestRequestId checks that RequestIds are random UUIDs, each a different one.
func TestRequestId(t *testing.T) {
	seen := make(map[uuid.UUID]bool)
	for range 1000 {
		text := newRequestId()
		id, err := uuid.Parse(text)
		if err != nil || id.String() != text || id.Version() != 4 || id.Variant() != uuid.RFC4122 || seen[id] {
			t.Fatalf("got %q, want a new UUID of version 4", text)
		}
		seen[id] = true
	}
}
