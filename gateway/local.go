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
// decoded into resp, which may be nil. Errors of the API are *Error.
func (s *Server) Call(ctx context.Context, action string, parameters map[string]string, resp any) error {
	answer, err := s.call(ctx, action, parameters)
	if err != nil {
		return err
	}
	if _, ok := answer.(octets); ok {
		return errors.Join(errOctets, discard(answer))
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
		return errNoOctets
	}
	_, err = o.WriteTo(w)
	return errors.Join(err, o.Close())
}

var errNoOctets = errors.New("the operation does not answer with octets: Call takes its answer")

func (s *Server) call(ctx context.Context, action string, parameters map[string]string) (kms.Response, error) {
	c := s.newCall(localDoor, "")
	c.action, c.parameters = action, parameters
	c.entry.Action = action
	answer, err := recovered(func() (kms.Response, error) {
		return c.do(ctx, func(*call) (*identity.Principal, error) { return s.callers.Root(uint32(os.Getuid())), nil })
	})
	answer, api := c.finish(answer, err)
	if api != nil {
		return nil, api
	}
	return answer, nil
}
