package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Call runs an operation through the local door, as the user that this process runs as.
// That user may do every operation; [Server.Do] says how it signs. The call takes the
// corridor like every other and is audited. Call decodes the response into resp, unless resp
// is nil. Errors of the API are *kms.Error.
func (s *Server) Call(ctx context.Context, action string, parameters map[string]string, resp any) error {
	return s.Do(ctx, kms.AdminRequest{Action: action, Parameters: parameters}, resp)
}

// Do is like Call, for a request that can be on behalf of a user.
func (s *Server) Do(ctx context.Context, request kms.AdminRequest, resp any) error {
	answer, err := s.call(ctx, request)
	if err != nil {
		return err
	}
	if _, ok := answer.(octets); ok {
		return errors.Join(kms.ErrOctets, discard(answer))
	}
	if resp == nil {
		return nil
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, resp)
}

// Stream is like Call, for an operation that answers with raw bytes. It writes them to w.
func (s *Server) Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error {
	answer, err := s.call(ctx, kms.AdminRequest{Action: action, Parameters: parameters})
	if err != nil {
		return err
	}
	o, ok := answer.(octets)
	if !ok {
		return kms.ErrNoOctets
	}
	_, err = o.WriteTo(w)
	return errors.Join(err, o.Close())
}

func (s *Server) call(ctx context.Context, request kms.AdminRequest) (kms.Response, error) {
	d := &localDoor{caller: localCaller{uint32(os.Getuid()), front.LoginUid(os.Getpid()), request}}
	if err := s.serve(ctx, d, ""); err != nil {
		return nil, err
	}
	return d.resp, nil
}

// A localDoor is the door for this process itself.
type localDoor struct {
	caller localCaller
	resp   kms.Response // nil until the call is answered
}

func (d *localDoor) name() kms.Door { return kms.Local }

func (d *localDoor) read(c *call) error {
	c.action, c.parameters, c.entry.Action = d.caller.request.Action, d.caller.request.Parameters, d.caller.request.Action
	return nil
}

func (d *localDoor) authenticate(_ context.Context, c *call) (*identity.Principal, error) {
	return d.caller.principal(c)
}

func (d *localDoor) lookup(c *call) (operation, error) { return d.caller.lookup(c) }

func (d *localDoor) charges(c *call) []kms.Quota { return d.caller.charges(c) }

func (d *localDoor) errorOf(err error) *kms.Error { return localError(err) }

func (d *localDoor) answer(_ *call, resp kms.Response, apiErr *kms.Error) error {
	if apiErr != nil {
		return apiErr // only if it is not nil: a nil *kms.Error is not a nil error
	}
	d.resp = resp
	return nil
}
