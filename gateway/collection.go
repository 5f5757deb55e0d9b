package gateway

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// anyName is the name in the ARN of an action on all records of a kind, or on a record that
// may not exist. No record can have this name.
const anyName = "*"

func (s *Server) namedARN(o kms.Operation, name string) string {
	kind, _ := o.ResourceKind()
	return s.arns.Resource(kind + "/" + name)
}

// authorizeNamed asks the caller's policies for the action on a name. parameter is the
// request parameter that has the name.
func authorizeNamed(c *call, parameter, name string) error {
	c.entry.Subject = kms.Clip(name)
	if err := checkName(parameter, name); err != nil {
		return err
	}
	return c.authorize(c.namedARN(name))
}

// maxNamed is the most records that a collection can have.
const maxNamed = 1000

// A collection is the named records of one kind. Its methods are the common part of the
// operations on them.
type collection[R any] struct {
	noun  string // what error messages call a record
	read  func(*store.Records) store.Table[R]
	write func(*store.Tx) store.Writable[R]
}

// find returns a record, or Forbidden.ResourceNotFound. That error reveals that the record
// does not exist, so the caller must be authorised for the name.
func (co collection[R]) find(records *store.Records, name string) (R, error) {
	r, err := co.read(records).Get(name)
	if errors.Is(err, store.ErrNotFound) {
		err = kms.ErrResourceNotFound.Because("There is no %s %q.", co.noun, kms.Clip(name))
	}
	return r, err
}

// create writes a record under a new name. check refuses the record if the other records
// do not allow it.
func (co collection[R]) create(c *call, name string, r R, check func(records *store.Records) error) error {
	if err := authorizeNamed(c, "Name", name); err != nil {
		return err
	}
	return c.update(func(tx *store.Tx) error {
		all := co.write(tx)
		if all.Has(name) {
			return kms.ErrResourceExists
		}
		if all.Len() >= maxNamed {
			return kms.ErrLimitExceeded.Because("There are %d already.", maxNamed)
		}
		if err := check(tx.Records); err != nil {
			return err
		}
		return all.Create(r)
	})
}

// describe returns a record.
func (co collection[R]) describe(c *call, name string) (r R, err error) {
	if err := authorizeNamed(c, "Name", name); err != nil {
		return r, err
	}
	if r, err = co.find(c.records, name); err != nil {
		return r, err
	}
	return r, c.confirm()
}

// update changes a record. change must replace the record's lists and not modify them,
// because other calls are reading them.
func (co collection[R]) update(c *call, name string, change func(records *store.Records, r *R) error) error {
	if err := authorizeNamed(c, "Name", name); err != nil {
		return err
	}
	return c.update(func(tx *store.Tx) error {
		r, err := co.find(tx.Records, name)
		if err != nil {
			return err
		}
		if err := change(tx.Records, &r); err != nil {
			return err
		}
		return co.write(tx).Put(r)
	})
}

// delete deletes a record, even if other records refer to it. A reference to a missing
// record permits nothing.
func (co collection[R]) delete(c *call, name string) error {
	if err := authorizeNamed(c, "Name", name); err != nil {
		return err
	}
	return c.update(func(tx *store.Tx) error {
		if _, err := co.find(tx.Records, name); err != nil {
			return err
		}
		return co.write(tx).Delete(name)
	})
}

// list returns a page of the records.
func (co collection[R]) list(c *call, req *kms.ListNamedRequest) (all []R, page kms.PageInfo, err error) {
	page = kms.NewPage(req.PageNumber, req.PageSize, kms.NamedPageSize)
	if err := c.authorizeOperation(); err != nil {
		return nil, page, err
	}
	if err := c.confirm(); err != nil {
		return nil, page, err
	}
	table := co.read(c.records)
	page.TotalCount = table.Len()
	return table.Page(page.Skip(), page.PageSize), page, nil
}

// parseNames parses a JSON list of minCount to maxCount different strings. check refuses
// invalid strings.
func parseNames(parameter, text string, minCount, maxCount int, check func(string) error) ([]string, error) {
	var members []string
	if err := json.Unmarshal([]byte(text), &members); err != nil || len(members) < minCount || len(members) > maxCount {
		return nil, kms.InvalidParameter(parameter, "it must be a JSON list of %d to %d strings", minCount, maxCount)
	}
	for i, member := range members {
		if err := check(member); err != nil {
			return nil, err
		}
		if slices.Contains(members[:i], member) {
			return nil, kms.InvalidParameter(parameter, "it has %q twice", member)
		}
	}
	return members, nil
}

// jsonText returns v as JSON text, for answers that have JSON in a string. Names and
// addresses contain no character that JSON escapes.
func jsonText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // lists of strings can always be encoded
	}
	return string(text)
}

// parseOptional parses a parameter of an update if the request has it, even if it is empty.
func parseOptional(text *string, parse func(string) ([]string, error)) (*[]string, error) {
	if text == nil {
		return nil, nil
	}
	members, err := parse(*text)
	return &members, err
}

// setOptional sets a field of a record to value, unless value is nil.
func setOptional[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}
