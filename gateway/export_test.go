package gateway

import (
	"context"
	"slices"

	"github.com/kmsgate/kmsgate/store"
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

// AdminErrors lists the errors of administration.
func AdminErrors() (all []Error) {
	for _, e := range definedAdmin {
		all = append(all, *e)
	}
	return all
}

// Unsupported gives the names of KMS's operations that the gateway has not.
func Unsupported() []string { return unsupported }

var Decode = decode

const (
	MaxBody      = maxBody
	MaxPerSource = 128
)

// Sources tells how many sources of strangers are told apart at the moment.
func (s *Server) Sources() int {
	s.strangers.mu.Lock()
	defer s.strangers.mu.Unlock()
	return len(s.strangers.bySource)
}

const MaxSources = maxSources

// Gate is a gate with its methods.
type Gate struct{ gate }

func (g *Gate) Enter(ctx context.Context) error                    { return g.enter(ctx) }
func (g *Gate) Leave()                                             { g.leave() }
func (g *Gate) Close(ctx context.Context) (open func(), err error) { return g.close(ctx) }

// MayKeyless decides whether a client key of an access point may do what is of no
// one key, from source if that is not empty.
func (s *Server) MayKeyless(aapName, action, source string) (allowed bool, err error) {
	values := map[string]string{"acs:SourceIp": source}
	if source == "" {
		delete(values, "acs:SourceIp")
	}
	err = s.Store.View(func(tx *store.Tx) error {
		p, err := s.accessPointPrincipal(tx, aapName)
		if err != nil {
			return err
		}
		d, err := s.decide(p, action, s.arn(keyless[action]), nil, values)
		allowed = d.Allowed
		return err
	})
	return allowed, err
}
