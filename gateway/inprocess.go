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

// Call does an operation through the local door: as the user whom this process
// runs as, who may do everything that can be done here. It goes through the
// corridor like every other call and is audited. The response's members are
// decoded into resp, which may be nil. Errors of the API are *kms.Error.
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

// Stream is Call for an operation that answers with octets, which are written to
// w.
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
	resp       kms.Response // the answer
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

// lookupLocal is for the doors of local administrators, who may ask for everything.
func lookupLocal(c *call) (operation, error) {
	if c.action == "" {
		return operation{}, kms.MissingParameter("Action")
	}
	return lookup(c.action, func(operation) bool { return true })
}

func (d *localDoor) errorOf(err error) *kms.Error { return apiError(err) }

func (d *localDoor) answer(_ *call, resp kms.Response, api *kms.Error) error {
	if api != nil {
		return api // not as it is: a nil *kms.Error in an error is not nil
	}
	d.resp = resp
	return nil
}
