package gateway

import (
	"context"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A door is a way into the corridor. For one request, it turns bytes into a call and the
// call's answer into bytes. It knows the wire, and how callers authenticate there. It knows
// nothing of what operations do, and the corridor knows nothing of the wire.
type door interface {
	// name returns the door's name in the audit log and in metrics.
	name() kms.Door

	// read reads the request, as far as its caller need not be known for that. It refuses
	// early what costs little to refuse.
	read(c *call) error

	// authenticate verifies the request's claim against c.records and returns the caller's
	// principal. By then, c's action, parameters and nonce, and the audit line's part of
	// them, are what the request claims and asks for. It is called again after the rest of a
	// request has been read.
	authenticate(ctx context.Context, c *call) (*identity.Principal, error)

	// lookup returns the operation that the call asks for.
	lookup(c *call) (operation, error)

	// charges returns the quotas to charge for the call's operation, which is zero if lookup
	// returned an error. It is empty if the call costs nothing.
	charges(c *call) []kms.Quota

	// errorOf returns the error that the client receives for err.
	errorOf(err error) *kms.Error

	// answer writes apiErr to the client, or resp if apiErr is nil.
	answer(c *call, resp kms.Response, apiErr *kms.Error) error
}
