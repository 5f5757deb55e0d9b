package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/kmsgate/kmsgate/store"
)

// entityName is what RAM lets users and policies be called.
var entityName = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)

func checkName(parameter, name string) error {
	if !entityName.MatchString(name) {
		return invalidParameter(parameter, "%q is not 1 to 64 of the characters A-Za-z0-9._@-", clip(name))
	}
	return nil
}

const maxComments = 128

// checkUserName keeps the name under which the gateway's own doings are logged.
func checkUserName(name string) error {
	if name == ownName {
		return invalidParameter("UserName", "%s is how the log calls the gateway itself", ownName)
	}
	return checkName("UserName", name)
}

const ownName = "kmsgate"

func checkText(parameter, text string) error {
	if len(text) > maxComments {
		return invalidParameter(parameter, "it has more than %d bytes", maxComments)
	}
	return nil
}

// user gives a user, or EntityNotExist.User.
func (c *call) user(tx *store.Tx, userName string) (store.User, error) {
	c.entry.Subject = clip(userName)
	u, err := tx.User(userName)
	if errors.Is(err, store.ErrNotFound) {
		return store.User{}, errUserNotFound
	}
	return u, err
}

// changeUser changes a user's record, in a transaction that sees it as it is
// then. First it is tried on the record as it is, so that a dry run finds out
// what is wrong too.
func (c *call) changeUser(userName string, change func(tx *store.Tx, u *store.User) error) error {
	try := func(tx *store.Tx) (store.User, error) {
		u, err := c.user(tx, userName)
		if err == nil {
			u.Policies = slices.Clone(u.Policies)
			err = change(tx, &u)
		}
		return u, err
	}
	err := c.server.Store.View(func(tx *store.Tx) error {
		_, err := try(tx)
		return err
	})
	if err != nil {
		return err
	}
	if err := c.commit(); err != nil {
		return err
	}
	return c.change(func(tx *store.Tx) error {
		u, err := try(tx)
		if err != nil {
			return err
		}
		return tx.PutUser(u)
	})
}

type createUserRequest struct {
	UserName string `kms:"required"`
	Comments string
}

type userItem struct {
	UserName   string
	Comments   string
	CreateDate string
	Policies   struct{ Policy []string }
	AccessKeys int
}

type createUserResponse struct {
	result
	User userItem
}

// createUser makes a user, who may do nothing before a policy is attached.
func createUser(_ context.Context, c *call, req *createUserRequest) (*createUserResponse, error) {
	c.entry.Subject = clip(req.UserName)
	if err := errors.Join(checkUserName(req.UserName), checkText("Comments", req.Comments)); err != nil {
		return nil, err
	}
	isNew := func(tx *store.Tx) error {
		if _, err := tx.User(req.UserName); err == nil {
			return errUserExists
		}
		return nil
	}
	if err := c.server.Store.View(isNew); err != nil {
		return nil, err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	u := store.User{UserName: req.UserName, Comments: req.Comments, CreationDate: c.now}
	resp := &createUserResponse{User: newUserItem(u, 0)}
	return resp, c.change(func(tx *store.Tx) error {
		return errors.Join(isNew(tx), tx.PutUser(u))
	})
}

func newUserItem(u store.User, accessKeys int) userItem {
	item := userItem{UserName: u.UserName, Comments: u.Comments, CreateDate: apiTime(u.CreationDate), AccessKeys: accessKeys}
	item.Policies.Policy = append([]string{}, u.Policies...)
	return item
}

type listUsersResponse struct {
	result
	Users struct{ User []userItem }
}

func listUsers(_ context.Context, c *call, _ *noRequest) (*listUsersResponse, error) {
	if err := c.commit(); err != nil {
		return nil, err
	}
	resp := new(listUsersResponse)
	resp.Users.User = []userItem{}
	return resp, c.server.Store.View(func(tx *store.Tx) error {
		of := make(map[string]int)
		for _, a := range tx.AccessKeys() {
			of[a.UserName]++
		}
		for _, u := range tx.Users() {
			resp.Users.User = append(resp.Users.User, newUserItem(u, of[u.UserName]))
		}
		return nil
	})
}

type deleteUserRequest struct {
	UserName string `kms:"required"`
	Force    *bool  // with access keys and policies
}

func deleteUser(_ context.Context, c *call, req *deleteUserRequest) (*emptyResponse, error) {
	var keys []store.AccessKey
	check := func(tx *store.Tx) error {
		u, err := c.user(tx, req.UserName)
		if err != nil {
			return err
		}
		keys = slices.DeleteFunc(tx.AccessKeys(), func(a store.AccessKey) bool { return a.UserName != u.UserName })
		if !(req.Force != nil && *req.Force) && len(keys)+len(u.Policies) > 0 {
			return errUserInUse.because("Access keys: %d, policies: %d. Force (--force) deletes it all the same.", len(keys), len(u.Policies))
		}
		return nil
	}
	if err := c.server.Store.View(check); err != nil {
		return nil, err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	err := c.change(func(tx *store.Tx) error {
		if err := check(tx); err != nil {
			return err
		}
		return tx.DeleteUser(req.UserName)
	})
	for _, a := range keys {
		if err == nil {
			c.server.credentials.drop(a)
		}
	}
	return done(err)
}

type createAccessKeyRequest struct {
	UserName string `kms:"required"`
}

// createAccessKeyResponse is the only answer that shows the secret.
type createAccessKeyResponse struct {
	result
	AccessKeyId     string
	AccessKeySecret string
	UserName        string
	Status          string
	CreateDate      string
}

func createAccessKey(ctx context.Context, c *call, req *createAccessKeyRequest) (*createAccessKeyResponse, error) {
	exists := func(tx *store.Tx) error {
		_, err := c.user(tx, req.UserName)
		return err
	}
	if err := c.server.Store.View(exists); err != nil {
		return nil, err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	// 120 and 130 random bits, as text.
	id, secret := "KMSG"+rand.Text()[:24], rand.Text()
	sealed, err := c.server.Sealer.Seal(ctx, []byte(secret), secretAAD(id))
	if err != nil {
		return nil, fmt.Errorf("sealing an access key's secret: %w", err)
	}
	access := store.AccessKey{AccessKeyId: id, UserName: req.UserName, Sealed: sealed, Active: true, CreationDate: c.now}
	c.entry.Subject = clip(req.UserName) + "/" + id
	err = c.change(func(tx *store.Tx) error {
		if _, err := tx.User(req.UserName); err != nil {
			return errUserNotFound // deleted meanwhile
		}
		c.server.credentials.keep(access, secret)
		return tx.PutAccessKey(access)
	})
	if err != nil {
		c.server.credentials.drop(access)
		return nil, err
	}
	return &createAccessKeyResponse{AccessKeyId: id, AccessKeySecret: secret, UserName: req.UserName, Status: statusOf(access), CreateDate: apiTime(c.now)}, nil
}

type listAccessKeysRequest struct {
	UserName string // all users if empty
}

type accessKeyItem struct {
	AccessKeyId  string
	UserName     string
	Status       string
	CreateDate   string
	LastUsedDate string // empty if never
}

type listAccessKeysResponse struct {
	result
	AccessKeys struct{ AccessKey []accessKeyItem }
}

func listAccessKeys(_ context.Context, c *call, req *listAccessKeysRequest) (*listAccessKeysResponse, error) {
	if req.UserName != "" {
		err := c.server.Store.View(func(tx *store.Tx) error {
			_, err := c.user(tx, req.UserName)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	resp := new(listAccessKeysResponse)
	resp.AccessKeys.AccessKey = []accessKeyItem{}
	return resp, c.server.Store.View(func(tx *store.Tx) error {
		for _, a := range tx.AccessKeys() {
			if req.UserName != "" && a.UserName != req.UserName {
				continue
			}
			item := accessKeyItem{a.AccessKeyId, a.UserName, statusOf(a), apiTime(a.CreationDate), apiTime(c.server.credentials.lastUsed(a))}
			resp.AccessKeys.AccessKey = append(resp.AccessKeys.AccessKey, item)
		}
		return nil
	})
}

// The states of an access key, spelled as RAM spells them.
const (
	active   = "Active"
	inactive = "Inactive"
)

func statusOf(a store.AccessKey) string {
	if a.Active {
		return active
	}
	return inactive
}

type updateAccessKeyRequest struct {
	AccessKeyId string `kms:"required"`
	Status      string `kms:"required"`
}

func updateAccessKey(_ context.Context, c *call, req *updateAccessKeyRequest) (*emptyResponse, error) {
	if req.Status != active && req.Status != inactive {
		return nil, invalidParameter("Status", "%q is neither Active nor Inactive", clip(req.Status))
	}
	return done(c.changeAccessKey(req.AccessKeyId, func(tx *store.Tx, a store.AccessKey) error {
		a.Active = req.Status == active
		return tx.PutAccessKey(a)
	}))
}

type deleteAccessKeyRequest struct {
	AccessKeyId string `kms:"required"`
}

func deleteAccessKey(_ context.Context, c *call, req *deleteAccessKeyRequest) (*emptyResponse, error) {
	var deleted store.AccessKey
	err := c.changeAccessKey(req.AccessKeyId, func(tx *store.Tx, a store.AccessKey) error {
		deleted = a
		return tx.DeleteAccessKey(a.AccessKeyId)
	})
	if err == nil {
		c.server.credentials.drop(deleted)
	}
	return done(err)
}

func (c *call) changeAccessKey(accessKeyId string, change func(tx *store.Tx, a store.AccessKey) error) error {
	c.entry.Subject = clip(accessKeyId)
	var a store.AccessKey
	find := func(tx *store.Tx) (err error) {
		if a, err = tx.AccessKey(accessKeyId); errors.Is(err, store.ErrNotFound) {
			return errAccessKeyMissing
		}
		return err
	}
	if err := c.server.Store.View(find); err != nil {
		return err
	}
	c.entry.Subject = a.UserName + "/" + a.AccessKeyId
	if err := c.commit(); err != nil {
		return err
	}
	return c.change(func(tx *store.Tx) error {
		if err := find(tx); err != nil {
			return err
		}
		return change(tx, a)
	})
}
