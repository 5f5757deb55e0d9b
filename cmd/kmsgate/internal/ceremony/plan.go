// Package ceremony creates the keys, users, policies and aliases of a plan. The gateway then attests
// the transcript, and how the token protects the keys.
//
// A [Plan] is YAML. [Ceremony.Prepare] compares it with an instance: what exists must not contradict
// the plan. It then sends a dry run of each missing step that depends on no other. [Ceremony.Run]
// creates what is missing. It writes a [Transcript] and has the gateway attest it, with what the token
// reports of itself and of every key. [Verify] needs nothing but these files and the audit key's
// public half.
//
// # Kills and faults
//
// While a ceremony runs, its transcript is in the file TRANSCRIPT.partial. Each step is recorded there
// before its request is sent. A ceremony that ended early continues when it is run again. Nothing is
// created twice, even if the gateway still carries out a request of the run that ended: every name is
// taken in the same transaction. In the audit log the requests have the ceremony as their Reference,
// except for the first, which asks for the instance.
package ceremony

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/strictyaml"
)

// Limits of a plan.
const (
	MaxPlan = 64 << 10    // bytes
	MaxKeys = kms.MaxList // keys, and versions of all keys together

	maxTitle = 256 // bytes; the title becomes the description of a key's protection
)

// A Plan is what a ceremony creates, in YAML with the names of the fields in lower case.
type Plan struct {
	Title     string
	Operators []string // the people who carry it out
	Policies  []Policy
	Users     []User
	Keys      []Key
	Aliases   []Alias
}

// A Policy is a RAM policy.
type Policy struct {
	Name        string
	Description string
	Document    strictyaml.Document
}

// A User is a user with exactly these policies. Each is in the plan or exists.
type User struct {
	Name        string
	Description string
	Policies    []string
}

// A Key is a key. Its alias identifies it.
type Key struct {
	Alias       string // alias/…
	Spec        string // an hsm.KeySpec
	Description string
	Tags        map[string]string   // all of its tags
	Policy      strictyaml.Document // its key policy; if there is none, an existing key can have any
	Protect     bool                // from deletion
}

// An Alias is one more alias of a key.
type Alias struct {
	Name string // alias/…
	Key  string // the alias of a key of the plan, or any name of an existing key
}

// ParsePlan parses a plan. The error names the mistakes in the YAML, or else every mistake that can be
// found without an instance.
func ParsePlan(text []byte) (p Plan, err error) {
	if len(text) > MaxPlan {
		return p, fmt.Errorf("it has more than %d KiB", MaxPlan>>10)
	}
	if err := strictyaml.Decode(text, &p); err != nil {
		return p, err
	}
	return p, p.check()
}

// check returns every mistake that can be found without an instance.
func (p Plan) check() error {
	c := checker{names: make(map[string]bool)}
	c.need(p.Title != "", "title is missing: what is the ceremony for?")
	c.need(kms.IsText(p.Title) && len(p.Title) <= maxTitle, "title has a control character, or more than %d bytes", maxTitle)
	c.need(len(p.Operators) > 0, "operators is missing: the transcript names the people who carry the ceremony out")
	for _, name := range p.Operators {
		c.need(strings.TrimSpace(name) != "" && kms.IsText(name), "operators has a name that is empty, or has a control character")
	}
	c.need(len(p.Policies)+len(p.Users)+len(p.Keys)+len(p.Aliases) > 0, "there is nothing to create: give policies, users, keys or aliases")
	c.need(len(p.Keys) <= MaxKeys, "it has %d keys: at most %d are possible", len(p.Keys), MaxKeys)
	for _, policy := range p.Policies {
		c.name("policy", policy.Name)
		c.need(policy.Document != "", "policy %q has no document", policy.Name)
	}
	for _, u := range p.Users {
		c.name("user", u.Name)
		for i, name := range u.Policies {
			c.need(!slices.Contains(u.Policies[:i], name), "user %q has policy %q twice", u.Name, name)
		}
	}
	for _, k := range p.Keys {
		c.alias("key", k.Alias)
		c.need(slices.Contains(hsm.KeySpecs(), hsm.KeySpec(k.Spec)), "key %q: spec %q is not one of %v", k.Alias, k.Spec, hsm.KeySpecs())
	}
	for _, a := range p.Aliases {
		c.alias("alias", a.Name)
		c.need(a.Key != "", "alias %q names no key", a.Name)
	}
	return errors.Join(c.errs...)
}

// A checker collects mistakes.
type checker struct {
	names map[string]bool // "policy x", "user x", "alias/x"
	errs  []error
}

func (c *checker) need(ok bool, format string, args ...any) {
	if !ok {
		c.errs = append(c.errs, fmt.Errorf(format, args...))
	}
}

func (c *checker) name(kind, name string) {
	c.need(name != "", "a %s has no name", kind)
	c.need(name == "" || !c.names[kind+" "+name], "%s %q is there twice", kind, name)
	c.names[kind+" "+name] = true
}

func (c *checker) alias(kind, name string) {
	if err := kms.CheckAliasName(name); err != nil {
		c.errs = append(c.errs, fmt.Errorf("%s %q: %w", kind, name, err))
	}
	c.need(!c.names[name], "%s is there twice", name)
	c.names[name] = true
}
