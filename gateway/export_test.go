package gateway

import (
	"maps"
	"slices"
)

// Implemented gives the names of the operations that have a function.
func Implemented() []string { return slices.Sorted(maps.Keys(operations)) }

const (
	MaxBody      = maxBody
	MaxPerSource = 128
)

// Sources tells how many sources of unauthenticated callers are told apart at the moment.
func (s *Server) Sources() int { return s.unauthenticated.Sources() }
