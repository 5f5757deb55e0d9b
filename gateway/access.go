package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"regexp"
	"slices"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// namePattern is RAM's rule for the names of users and policies.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)

func checkName(parameter, name string) error {
	if !namePattern.MatchString(name) {
		return kms.InvalidParameter(parameter, "%q must have 1 to 64 of the characters A-Za-z0-9._@-", kms.Clip(name))
	}
	return nil
}

// checkUserName refuses the name under which the audit log shows the gateway's own acts.
func checkUserName(name string) error {
	if name == keypair.GatewayPrincipal {
		return kms.InvalidParameter("UserName", "%q is reserved: the log uses it for the gateway itself",
			keypair.GatewayPrincipal)
	}
	return checkName("UserName", name)
}

// findUser returns a user, or EntityNotExist.User.
func findUser(c *call, records *store.Records, userName string) (store.User, error) {
	c.entry.Subject = kms.Clip(userName)
	u, err := records.Users().Get(userName)
	if errors.Is(err, store.ErrNotFound) {
		return store.User{}, kms.ErrUserNotFound
	}
	return u, err
}

// updateUser applies change to a user's record.
func updateUser(c *call, userName string, change func(records *store.Records, u *store.User) error) error {
	return c.update(func(tx *store.Tx) error {
		u, err := findUser(c, tx.Records, userName)
		if err != nil {
			return err
		}
		u.Policies = slices.Clone(u.Policies)
		if err := change(tx.Records, &u); err != nil {
			return err
		}
		return tx.Users().Put(u)
	})
}

// createUser creates a user. The user may do nothing until a policy is attached.
func createUser(_ context.Context, c *call, req *kms.CreateUserRequest) (*kms.CreateUserResponse, error) {
	c.entry.Subject = kms.Clip(req.UserName)
	if err := checkUserName(req.UserName); err != nil {
		return nil, err
	}
	u := store.User{UserName: req.UserName, Comments: req.Comments, CreationDate: c.now}
	resp := &kms.CreateUserResponse{User: newUserItem(u, 0)}
	return resp, c.update(func(tx *store.Tx) error {
		if tx.Users().Has(req.UserName) {
			return kms.ErrUserExists
		}
		return tx.Users().Put(u)
	})
}

func newUserItem(u store.User, accessKeys int) kms.UserItem {
	item := kms.UserItem{UserName: u.UserName, Comments: u.Comments, CreateDate: kms.FormatTime(u.CreationDate),
		AccessKeys: accessKeys}
	item.Policies.Policy = append([]string{}, u.Policies...)
	return item
}

func listUsers(_ context.Context, c *call, _ *kms.NoRequest) (*kms.ListUsersResponse, error) {
	if err := c.confirm(); err != nil {
		return nil, err
	}
	accessKeys := make(map[string]int)
	for a := range c.records.AccessKeys().All() {
		accessKeys[a.UserName]++
	}
	resp := new(kms.ListUsersResponse)
	resp.Users.User = []kms.UserItem{}
	for u := range c.records.Users().All() {
		resp.Users.User = append(resp.Users.User, newUserItem(u, accessKeys[u.UserName]))
	}
	return resp, nil
}

func deleteUser(_ context.Context, c *call, req *kms.DeleteUserRequest) (*kms.EmptyResponse, error) {
	var keys []store.AccessKey
	err := c.update(func(tx *store.Tx) error {
		u, err := findUser(c, tx.Records, req.UserName)
		if err != nil {
			return err
		}
		keys = accessKeysOf(tx.Records, u.UserName)
		if !(req.Force != nil && *req.Force) && len(keys)+len(u.Policies) > 0 {
			return kms.ErrUserInUse.Because("Access keys: %d, policies: %d. To delete the user anyway, set Force=true.",
				len(keys), len(u.Policies))
		}
		return tx.Users().Delete(req.UserName)
	})
	if err != nil {
		return nil, err
	}
	for _, a := range keys {
		c.server.callers.Drop(a)
	}
	return new(kms.EmptyResponse), nil
}

// accessKeysOf returns the access keys of a user, or of all users if userName is empty.
func accessKeysOf(records *store.Records, userName string) (keys []store.AccessKey) {
	for a := range records.AccessKeys().All() {
		if userName == "" || a.UserName == userName {
			keys = append(keys, a)
		}
	}
	return keys
}

// maxAccessKeysOfUser is how many access keys a user can have. The user's deletion deletes all of
// them in one change.
const maxAccessKeysOfUser = 1000

// createAccessKey creates an access key. Its id has 120 random bits, its secret 130.
func createAccessKey(
	ctx context.Context, c *call, req *kms.CreateAccessKeyRequest,
) (*kms.CreateAccessKeyResponse, error) {
	preset := presetOf(ctx)
	id, secret := cmp.Or(preset.AccessKeyId, "KMSG"+rand.Text()[:24]), cmp.Or(preset.AccessKeySecret, rand.Text())
	access := store.AccessKey{AccessKeyId: id, UserName: req.UserName, Active: true, CreationDate: c.now}
	c.entry.Subject = kms.Clip(req.UserName)
	put := func(tx *store.Tx) error {
		if !tx.Users().Has(req.UserName) {
			return kms.ErrUserNotFound
		}
		if n := len(accessKeysOf(tx.Records, req.UserName)); n >= maxAccessKeysOfUser {
			return kms.ErrLimitExceeded.Because("The user has %d access keys.", n)
		}
		return tx.AccessKeys().Create(access)
	}
	if err := c.prepare(put); err != nil {
		return nil, err
	}
	if err := identity.SealAccessKey(ctx, c.server.config.Sealer, &access, secret); err != nil {
		return nil, err
	}
	c.entry.Subject = kms.Clip(req.UserName) + "/" + id
	c.server.callers.Keep(access, secret) // before the record becomes visible
	if err := c.write(put); err != nil {
		c.server.callers.Drop(access)
		return nil, err
	}
	return &kms.CreateAccessKeyResponse{AccessKeyId: id, AccessKeySecret: secret, UserName: req.UserName,
		Status: statusOf(access), CreateDate: kms.FormatTime(c.now)}, nil
}

func listAccessKeys(_ context.Context, c *call, req *kms.ListAccessKeysRequest) (*kms.ListAccessKeysResponse, error) {
	if req.UserName != "" {
		if _, err := findUser(c, c.records, req.UserName); err != nil {
			return nil, err
		}
	}
	if err := c.confirm(); err != nil {
		return nil, err
	}
	resp := new(kms.ListAccessKeysResponse)
	resp.AccessKeys.AccessKey = []kms.AccessKeyItem{}
	for _, a := range accessKeysOf(c.records, req.UserName) {
		item := kms.AccessKeyItem{AccessKeyId: a.AccessKeyId, UserName: a.UserName, Status: statusOf(a),
			CreateDate: kms.FormatTime(a.CreationDate), LastUsedDate: kms.FormatTime(c.server.callers.LastUsed(a))}
		resp.AccessKeys.AccessKey = append(resp.AccessKeys.AccessKey, item)
	}
	return resp, nil
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

func updateAccessKey(_ context.Context, c *call, req *kms.UpdateAccessKeyRequest) (*kms.EmptyResponse, error) {
	return emptyResponse(changeAccessKey(c, req.AccessKeyId, func(tx *store.Tx, a store.AccessKey) error {
		a.Active = req.Status == active
		return tx.AccessKeys().Put(a)
	}))
}

func deleteAccessKey(_ context.Context, c *call, req *kms.DeleteAccessKeyRequest) (*kms.EmptyResponse, error) {
	var deleted store.AccessKey
	err := changeAccessKey(c, req.AccessKeyId, func(tx *store.Tx, a store.AccessKey) error {
		deleted = a
		return tx.AccessKeys().Delete(a.AccessKeyId)
	})
	if err == nil {
		c.server.callers.Drop(deleted)
	}
	return emptyResponse(err)
}

func changeAccessKey(c *call, accessKeyId string, change func(tx *store.Tx, a store.AccessKey) error) error {
	c.entry.Subject = kms.Clip(accessKeyId)
	return c.update(func(tx *store.Tx) error {
		a, err := tx.AccessKeys().Get(accessKeyId)
		if errors.Is(err, store.ErrNotFound) {
			return kms.ErrAccessKeyMissing
		}
		if err != nil {
			return err
		}
		c.entry.Subject = a.UserName + "/" + a.AccessKeyId
		return change(tx, a)
	})
}
