package gateway

import (
	"context"
	"encoding/json"
	"os"
)

// Call does an operation through the local door: as the user whom this process
// runs as, who may do everything that can be done here. It goes through the
// corridor like every other call and is audited. The response's members are
// decoded into resp, which may be nil. Errors of the API are *Error.
func (s *Server) Call(ctx context.Context, action string, parameters map[string]string, resp any) error {
	c := s.newCall(localDoor, "")
	c.action, c.parameters = action, parameters
	c.entry.Action = action
	answer, err := recovered(func() (response, error) {
		return c.do(ctx, func() (*principal, error) { return s.newRoot(uint32(os.Getuid())), nil })
	})
	answer, api := c.finish(answer, err)
	if api != nil {
		return api
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
