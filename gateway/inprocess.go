package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Call runs an operation through the local door, as the user that this process runs as.
// That user may do every operation. The call takes the corridor like every other and is
// audited. Call decodes the response into resp, unless resp is nil. Errors of the API are
// *kms.Error.
func (s *Server) Call(ctx context.Context, action string, parameters map[string]string, resp any) error {
	answer, err := s.call(ctx, action, parameters)
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
	answer, err := s.call(ctx, action, parameters)
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

func (s *Server) call(ctx context.Context, action string, parameters map[string]string) (kms.Response, error) {
	d := &localDoor{server: s, action: action, parameters: parameters}
	if err := s.serve(ctx, d, ""); err != nil {
		return nil, err
	}
	return d.resp, nil
}

// A localDoor is the door for this process itself.
type localDoor struct {
	server     *Server
	action     string
	parameters map[string]string
	resp       kms.Response // nil until the call is answered
}

func (d *localDoor) name() kms.Door { return kms.Local }

func (d *localDoor) read(c *call) error {
	c.action, c.parameters, c.entry.Action = d.action, d.parameters, d.action
	return nil
}

func (d *localDoor) authenticate(context.Context, *call) (*identity.Principal, error) {
	return d.server.callers.Root(uint32(os.Getuid())), nil
}

func (d *localDoor) lookup(c *call) (operation, error) { return lookupLocal(c) }

// lookupLocal returns the call's operation, for the doors of local administrators. They
// offer every operation.
func lookupLocal(c *call) (operation, error) {
	if c.action == "" {
		return operation{}, kms.MissingParameter("Action")
	}
	return lookup(c.action, func(operation) bool { return true })
}

func (d *localDoor) errorOf(err error) *kms.Error { return apiError(err) }

func (d *localDoor) answer(_ *call, resp kms.Response, apiErr *kms.Error) error {
	if apiErr != nil {
		return apiErr // only if it is not nil: a nil *kms.Error is not a nil error
	}
	d.resp = resp
	return nil
}
