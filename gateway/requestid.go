package gateway

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/google/uuid"
)

// newRequestId returns a random UUID. A RequestId must be unique but not secret, so it comes from the process's
// own generator, and no call reads the system's random source. Two copies of a running machine make the same
// ones.
func newRequestId() string {
	var id uuid.UUID
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = id[6]&0x0f | 0x40 // version 4
	id[8] = id[8]&0x3f | 0x80 // the variant of RFC 9562
	return id.String()
}
