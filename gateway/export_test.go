package gateway

import (
	"maps"
	"slices"
)

// Implemented returns the names of the operations that have a function.
func Implemented() []string { return slices.Sorted(maps.Keys(operations)) }

const (
	MaxBody      = maxBody
	MaxPerSource = 128
)

// Sources returns how many sources of unauthenticated callers have a limit at the moment.
func (s *Server) Sources() int { return s.refusals.Sources() }
