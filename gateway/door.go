package gateway

import (
	"context"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A door is a way into the corridor: for one request, it turns bytes into a call and the
// call's answer into bytes. It knows the wire and who may be believed there. It knows
// nothing of what operations do, and the corridor knows nothing of the wire.
type door interface {
	// name is the door's name in the audit log and in metrics.
	name() kms.Door

	// read says what the request claims and asks for: action, parameters, nonce, and what
	// of that belongs into the audit line. Nothing of it is believed yet.
	read(c *call) error

	// authenticate says who asks, by c.records. It is asked again when the rest of a
	// request has taken its time.
	authenticate(ctx context.Context, c *call) (*identity.Principal, error)

	// lookup returns the operation that the call asks for, with what it is charged to.
	lookup(c *call) (operation, error)

	// errorOf returns what the client is told of an error.
	errorOf(err error) *kms.Error

	// answer writes the response, or the error if that is not nil.
	answer(c *call, resp kms.Response, api *kms.Error) error
}
