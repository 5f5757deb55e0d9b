package gateway

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/kmsgate/kmsgate/store"
)

// What ARNs call the things that carry names of their creators' own.
const (
	networkKind     = "network"
	policyKind      = "policy"
	accessPointKind = "applicationaccesspoint"
)

// named are the actions on one such thing. Those on client keys are on the access
// point that they are of.
var named = map[string]string{
	"CreateNetworkRule": networkKind, "DescribeNetworkRule": networkKind, "UpdateNetworkRule": networkKind, "DeleteNetworkRule": networkKind,
	"CreatePolicy": policyKind, "DescribePolicy": policyKind, "UpdatePolicy": policyKind, "DeletePolicy": policyKind,
	"CreateApplicationAccessPoint": accessPointKind, "DescribeApplicationAccessPoint": accessPointKind,
	"UpdateApplicationAccessPoint": accessPointKind, "DeleteApplicationAccessPoint": accessPointKind,
	"CreateClientKey": accessPointKind, "GetClientKey": accessPointKind, "ListClientKeys": accessPointKind, "DeleteClientKey": accessPointKind,
}

// anyName is the name in the ARN of an action that is not on one thing, or on one
// that there may not be. No thing can be called so.
const anyName = "*"

// namedARN is the ARN of what an action on a name is on.
func (s *Server) namedARN(action, name string) string { return s.arn(named[action] + "/" + name) }

// authorizeNamed asks for the action on a name, which parameter gave.
func (c *call) authorizeNamed(parameter, name string) error {
	c.entry.Subject = clip(name)
	if err := checkName(parameter, name); err != nil {
		return err
	}
	return c.authorize(c.server.namedARN(c.action, name))
}

// maxNamed bounds how many records of one kind there can be.
const maxNamed = 1000

// A collection is the records of one kind. Its methods do what operations on
// them have in common.
type collection[R any] struct {
	what   string // one of them, in a sentence
	get    func(tx *store.Tx, name string) (R, error)
	put    func(tx *store.Tx, r R) error
	remove func(tx *store.Tx, name string) error
	count  func(tx *store.Tx) int
	page   func(tx *store.Tx, skip, n int) []R
}

// find gives a record, or Forbidden.ResourceNotFound, which tells that there is none:
// it is for who may do what is asked for with the name.
func (of collection[R]) find(tx *store.Tx, name string) (R, error) {
	r, err := of.get(tx, name)
	if errors.Is(err, store.ErrNotFound) {
		err = errResourceNotFound.because("There is no %s %q.", of.what, clip(name))
	}
	return r, err
}

// create writes a record of a new name. fits refuses what the other records do
// not allow.
func (of collection[R]) create(c *call, name string, r R, fits func(tx *store.Tx) error) error {
	if err := c.authorizeNamed("Name", name); err != nil {
		return err
	}
	allowed := func(tx *store.Tx) error {
		if _, err := of.get(tx, name); err == nil {
			return errResourceExists
		}
		if of.count(tx) >= maxNamed {
			return errLimitExceeded.because("There are %d already.", maxNamed)
		}
		return fits(tx)
	}
	// First against the records as they are, so that a dry run finds out too.
	if err := c.server.Store.View(allowed); err != nil {
		return err
	}
	if err := c.commit(); err != nil {
		return err
	}
	return c.change(func(tx *store.Tx) error {
		if err := allowed(tx); err != nil {
			return err
		}
		return of.put(tx, r)
	})
}

// describe gives a record.
func (of collection[R]) describe(c *call, name string) (r R, err error) {
	if err := c.authorizeNamed("Name", name); err != nil {
		return r, err
	}
	err = c.server.Store.View(func(tx *store.Tx) (err error) {
		r, err = of.find(tx, name)
		return err
	})
	if err != nil {
		return r, err
	}
	return r, c.commit()
}

// update changes a record. change is called twice: once to see what would happen,
// before the commit, and once for good. It puts new lists in the place of those
// that the record has, which others are reading.
func (of collection[R]) update(c *call, name string, change func(tx *store.Tx, r *R) error) error {
	if err := c.authorizeNamed("Name", name); err != nil {
		return err
	}
	changed := func(tx *store.Tx) (R, error) {
		r, err := of.find(tx, name)
		if err == nil {
			err = change(tx, &r)
		}
		return r, err
	}
	err := c.server.Store.View(func(tx *store.Tx) error {
		_, err := changed(tx)
		return err
	})
	if err != nil {
		return err
	}
	if err := c.commit(); err != nil {
		return err
	}
	return c.change(func(tx *store.Tx) error {
		r, err := changed(tx)
		if err != nil {
			return err
		}
		return of.put(tx, r)
	})
}

// delete deletes a record. Who refers to it is not asked: what refers to nothing
// permits nothing.
func (of collection[R]) delete(c *call, name string) error {
	if err := c.authorizeNamed("Name", name); err != nil {
		return err
	}
	there := func(tx *store.Tx) error {
		_, err := of.find(tx, name)
		return err
	}
	if err := c.server.Store.View(there); err != nil {
		return err
	}
	if err := c.commit(); err != nil {
		return err
	}
	return c.change(func(tx *store.Tx) error {
		if err := there(tx); err != nil {
			return err
		}
		return of.remove(tx, name)
	})
}

// listNamedRequest asks for a page of a collection.
type listNamedRequest struct {
	PageNumber *int
	PageSize   *int
}

// namedPageSize is the default for collections: KMS has 10 for other lists.
const namedPageSize = 20

// list gives a page.
func (of collection[R]) list(c *call, req *listNamedRequest) (all []R, page pageInfo, err error) {
	if req.PageSize == nil {
		req.PageSize = new(namedPageSize)
	}
	if page, err = newPage(req.PageNumber, req.PageSize); err != nil {
		return nil, page, err
	}
	if err := c.authorizeKeyless(); err != nil {
		return nil, page, err
	}
	if err := c.commit(); err != nil {
		return nil, page, err
	}
	err = c.server.Store.View(func(tx *store.Tx) error {
		page.TotalCount, all = of.count(tx), of.page(tx, page.skip(), page.PageSize)
		return nil
	})
	return all, page, err
}

// nameRequest asks for one record of a collection.
type nameRequest struct {
	Name string `kms:"required"`
}

// parseNames reads a JSON list of strings, none of them twice, each of which check
// takes.
func parseNames(parameter, text string, least, most int, check func(string) error) ([]string, error) {
	var members []string
	if err := json.Unmarshal([]byte(text), &members); err != nil || len(members) < least || len(members) > most {
		return nil, invalidParameter(parameter, "it has to be a JSON list of %d to %d strings", least, most)
	}
	for i, member := range members {
		if err := check(member); err != nil {
			return nil, err
		}
		if slices.Contains(members[:i], member) {
			return nil, invalidParameter(parameter, "%q is there twice", member)
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

func checkNewDescription(description *string) error {
	if description == nil {
		return nil
	}
	return checkDescription("Description", *description)
}
