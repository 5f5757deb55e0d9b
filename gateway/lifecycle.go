package gateway

import (
	"context"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// retireKey is like updateKey, for a change after which the key must not sign. It drops the
// backend's copies of the key's private halves.
func retireKey(c *call, name string, change func(k *store.Key) error) error {
	if err := c.updateKey(name, change); err != nil {
		return err
	}
	c.server.pairs.Forget(c.entry.KeyId)
	return nil
}

// emptyResponse returns an EmptyResponse, or err if it is not nil.
func emptyResponse(err error) (*kms.EmptyResponse, error) {
	if err != nil {
		return nil, err
	}
	return new(kms.EmptyResponse), nil
}

func enableKey(_ context.Context, c *call, req *kms.KeyRequest) (*kms.EmptyResponse, error) {
	return emptyResponse(c.updateKey(req.KeyId, func(k *store.Key) error { return setState(k, store.Enabled) }))
}

func disableKey(_ context.Context, c *call, req *kms.KeyRequest) (*kms.EmptyResponse, error) {
	return emptyResponse(retireKey(c, req.KeyId, func(k *store.Key) error { return setState(k, store.Disabled) }))
}

// setState moves a key between Enabled and Disabled. It refuses a key in any other state.
func setState(k *store.Key, state string) error {
	if k.KeyState != store.Enabled && k.KeyState != store.Disabled {
		return kms.ErrStateModifiedFailed.Because("The key state is %s.", k.KeyState)
	}
	k.KeyState = state
	return nil
}

func scheduleKeyDeletion(_ context.Context, c *call, req *kms.ScheduleKeyDeletionRequest) (*kms.EmptyResponse, error) {
	days := *req.PendingWindowInDays
	return emptyResponse(retireKey(c, req.KeyId, func(k *store.Key) error {
		switch {
		case k.KeyState != store.Enabled && k.KeyState != store.Disabled && k.KeyState != store.PendingImport:
			return kms.ErrStateModifiedFailed.Because("The key state is %s.", k.KeyState)
		case k.Protected:
			return kms.ErrStateModifiedFailed.Because("The key is protected from deletion.")
		}
		k.KeyState = store.PendingDeletion
		window := time.Duration(days) * 24 * time.Hour
		k.DeleteDate, k.DeleteWindow = c.now.Add(window), 0
		if c.server.clock.Problem() != "" {
			k.DeleteWindow = window
		}
		return nil
	}))
}

func cancelKeyDeletion(_ context.Context, c *call, req *kms.KeyRequest) (*kms.EmptyResponse, error) {
	return emptyResponse(c.updateKey(req.KeyId, func(k *store.Key) error {
		if k.KeyState != store.PendingDeletion {
			return kms.ErrStateModifiedFailed.Because("The key state is %s.", k.KeyState)
		}
		k.KeyState, k.DeleteDate, k.DeleteWindow = store.Enabled, time.Time{}, 0
		return nil
	}))
}

func setDeletionProtection(
	_ context.Context, c *call, req *kms.SetDeletionProtectionRequest,
) (*kms.EmptyResponse, error) {
	name := req.ProtectedResourceArn
	switch {
	case name == "" && req.KeyId == "":
		return nil, kms.MissingParameter("ProtectedResourceArn")
	case name != "" && req.KeyId != "":
		return nil, kms.InvalidParameter("ProtectedResourceArn", "send either it or KeyId, not both")
	case name == "":
		name = req.KeyId
	case !strings.HasPrefix(name, c.server.arns.Resource("key/")):
		return nil, kms.InvalidParameter("ProtectedResourceArn", "it is not the ARN of a key")
	}
	return emptyResponse(c.updateKey(name, func(k *store.Key) error {
		if k.KeyState == store.PendingDeletion {
			return kms.ErrKeyPendingDeletion
		}
		k.Protected, k.ProtectedWhy = *req.EnableDeletionProtection, ""
		if k.Protected {
			k.ProtectedWhy = req.DeletionProtectionDescription
		}
		return nil
	}))
}

func updateKeyDescription(
	_ context.Context, c *call, req *kms.UpdateKeyDescriptionRequest,
) (*kms.EmptyResponse, error) {
	return emptyResponse(c.updateKey(req.KeyId, func(k *store.Key) error {
		k.Description = req.Description
		return nil
	}))
}
