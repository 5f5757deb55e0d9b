package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A grammar lists the elements of the statements in one kind of document. An element is required
// unless it is marked optional.
type grammar map[string]struct {
	read     func(r *reader, first json.Token, s *statement) error
	optional bool
}

var ramGrammar = grammar{
	"Effect":    {read: readEffect},
	"Action":    {read: readActions},
	"Resource":  {read: readResources},
	"Condition": {readConditions, true},
}

// Parse parses a RAM policy, the kind that is attached to users, of at most MaxDocument bytes. An
// error names the problem, the expected value and the position: the number of the statement, the
// line, and the column in characters.
func Parse(document string) (*Policy, error) {
	return parse(document, ramGrammar)
}

func parse(document string, g grammar) (*Policy, error) {
	r, err := newReader(document)
	if err != nil {
		return nil, err
	}
	p, version := new(Policy), ""
	if err := r.object(r.next(), func(name string) (err error) {
		switch name {
		case "Version":
			version, err = r.version(r.next())
			return err
		case "Statement":
			return r.list(r.next(), func(first json.Token) error {
				s, err := g.statement(r, first)
				if err != nil {
					return fmt.Errorf("statement %d: %w", len(p.statements)+1, err)
				}
				p.statements = append(p.statements, s)
				return nil
			})
		}
		return r.unknown("policy element", name, []string{"Version", "Statement"})
	}); err != nil {
		return nil, err
	}
	if version == "" {
		return nil, r.errorf("the policy has no Version")
	}
	if len(p.statements) == 0 {
		return nil, r.errorf("the policy has no Statement")
	}
	return p, nil
}

func (r *reader) version(first json.Token) (string, error) {
	v, err := r.text(first)
	if err == nil && v != "1" {
		err = r.errorf(`the Version is %.40q, not "1"`, v)
	}
	return v, err
}

func (g grammar) statement(r *reader, first json.Token) (statement, error) {
	var s statement
	missing := maps.Clone(g)
	if err := r.object(first, func(name string) error {
		m, known := g[name]
		if !known {
			return r.unknown("statement element", name, slices.Sorted(maps.Keys(g)))
		}
		delete(missing, name)
		if err := m.read(r, r.next(), &s); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}); err != nil {
		return s, err
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		if !missing[name].optional {
			return s, r.errorf("the statement that ends here has no %s", name)
		}
	}
	return s, nil
}

func readEffect(r *reader, first json.Token, s *statement) error {
	effect, err := r.text(first)
	if err == nil && effect != "Allow" && effect != "Deny" {
		err = r.errorf(`%.40q is neither "Allow" nor "Deny"`, effect)
	}
	s.deny = effect == "Deny"
	return err
}

func readActions(r *reader, first json.Token, s *statement) error {
	return r.eachText(first, func(pattern string) error {
		s.actions = append(s.actions, strings.ToLower(pattern))
		return nil
	})
}

func readResources(r *reader, first json.Token, s *statement) error {
	return r.eachText(first, func(pattern string) error {
		s.resources = append(s.resources, pattern)
		return nil
	})
}
