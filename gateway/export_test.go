package gateway

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/limit"
)

// Implemented returns the names of the operations that have a function.
func Implemented() []string { return slices.Sorted(maps.Keys(operations)) }

const (
	MaxBody      = maxBody
	MaxPerSource = 128
)

// Sources returns how many sources of unauthenticated callers have a limit at the moment.
func (s *Server) Sources() int { return s.refusals.Sources() }

// FillGate takes all slots for networks that are not known.
func (s *Server) FillGate() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // does not wait for a slot
	for i := 0; s.gate.Enter(ctx, limit.PrefixOf(fmt.Sprintf("192.0.2.%d", i)), false); i++ {
	}
}
