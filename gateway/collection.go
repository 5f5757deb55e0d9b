package gateway

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// anyName is the name in the ARN of an action that is not on one thing, or on one
// that there may not be. No thing can be called so.
const anyName = "*"

func (s *Server) namedARN(o kms.Operation, name string) string {
	kind, _ := o.ResourceKind()
	return s.arns.Resource(kind + "/" + name)
}

// authorizeNamed asks for the action on a name, which parameter gave.
func authorizeNamed(c *call, parameter, name string) error {
	c.entry.Subject = kms.Clip(name)
	if err := checkName(parameter, name); err != nil {
		return err
	}
	return c.authorize(c.namedARN(name))
}

// maxNamed bounds how many records of one kind there can be.
const maxNamed = 1000

// A collection is the records of one kind. Its methods do what operations on
// them have in common.
type collection[R any] struct {
	what  string // one of them, in a sentence
	read  func(*store.Records) store.Table[R]
	write func(*store.Tx) store.Writable[R]
}

// find gives a record, or Forbidden.ResourceNotFound, which tells that there is none:
// it is for who may do what is asked for with the name.
func (n collection[R]) find(records *store.Records, name string) (R, error) {
	r, err := n.read(records).Get(name)
	if errors.Is(err, store.ErrNotFound) {
		err = kms.ErrResourceNotFound.Because("There is no %s %q.", n.what, kms.Clip(name))
	}
	return r, err
}

// create writes a record of a new name. fits refuses what the other records do
// not allow.
func (n collection[R]) create(c *call, name string, r R, fits func(records *store.Records) error) error {
	if err := authorizeNamed(c, "Name", name); err != nil {
		return err
	}
	return c.update(func(tx *store.Tx) error {
		all := n.write(tx)
		if all.Has(name) {
			return kms.ErrResourceExists
		}
		if all.Len() >= maxNamed {
			return kms.ErrLimitExceeded.Because("There are %d already.", maxNamed)
		}
		if err := fits(tx.Records); err != nil {
			return err
		}
		return all.Create(r)
	})
}

// describe gives a record.
func (n collection[R]) describe(c *call, name string) (r R, err error) {
	if err := authorizeNamed(c, "Name", name); err != nil {
		return r, err
	}
	if r, err = n.find(c.records, name); err != nil {
		return r, err
	}
	return r, c.confirm()
}

// update changes a record. change puts new lists in the place of those
// that the record has, which others are reading.
func (n collection[R]) update(c *call, name string, change func(records *store.Records, r *R) error) error {
	if err := authorizeNamed(c, "Name", name); err != nil {
		return err
	}
	return c.update(func(tx *store.Tx) error {
		r, err := n.find(tx.Records, name)
		if err != nil {
			return err
		}
		if err := change(tx.Records, &r); err != nil {
			return err
		}
		return n.write(tx).Put(r)
	})
}

// delete deletes a record. Who refers to it is not asked: what refers to nothing
// permits nothing.
func (n collection[R]) delete(c *call, name string) error {
	if err := authorizeNamed(c, "Name", name); err != nil {
		return err
	}
	return c.update(func(tx *store.Tx) error {
		if _, err := n.find(tx.Records, name); err != nil {
			return err
		}
		return n.write(tx).Delete(name)
	})
}

// list gives a page.
func (n collection[R]) list(c *call, req *kms.ListNamedRequest) (all []R, page kms.PageInfo, err error) {
	page = kms.NewPage(req.PageNumber, req.PageSize, kms.NamedPageSize)
	if err := c.authorizeKeyless(); err != nil {
		return nil, page, err
	}
	if err := c.confirm(); err != nil {
		return nil, page, err
	}
	table := n.read(c.records)
	page.TotalCount = table.Len()
	return table.Page(page.Skip(), page.PageSize), page, nil
}

// parseNames reads a JSON list of strings, none of them twice, each of which check
// takes.
func parseNames(parameter, text string, least, most int, check func(string) error) ([]string, error) {
	var members []string
	if err := json.Unmarshal([]byte(text), &members); err != nil || len(members) < least || len(members) > most {
		return nil, kms.InvalidParameter(parameter, "it has to be a JSON list of %d to %d strings", least, most)
	}
	for i, member := range members {
		if err := check(member); err != nil {
			return nil, err
		}
		if slices.Contains(members[:i], member) {
			return nil, kms.InvalidParameter(parameter, "%q is there twice", member)
		}
	}
	return members, nil
}

// jsonText writes what some answers have as JSON in a string. Names and addresses
// have nothing in them that would be escaped.
func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // lists of strings can be written
	}
	return string(text)
}

// ifSent reads a parameter of an update, if it was sent: empty, too.
func ifSent(text *string, read func(string) ([]string, error)) (*[]string, error) {
	if text == nil {
		return nil, nil
	}
	members, err := read(*text)
	return &members, err
}

// setIfSent changes a field of a record, if there is something to change it to.
func setIfSent[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}
