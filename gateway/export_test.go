package gateway

import (
	"slices"
)

// Operations gives the names of the operations that the world can ask for.
func Operations() (names []string) {
	for name, o := range operations {
		if o.door == rpcDoor {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// AdminOperations gives the names of the operations of the admin door only.
func AdminOperations() (names []string) {
	for name, o := range operations {
		if o.door == adminDoor {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Unsupported gives the names of KMS's operations that the gateway has not.
func Unsupported() []string { return unsupported }

const (
	MaxBody      = maxBody
	MaxPerSource = 128
)

// Sources tells how many sources of unauthenticated callers are told apart at the moment.
func (s *Server) Sources() int { return s.unauthenticated.Sources() }
