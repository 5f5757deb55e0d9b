package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// An AdminClient does operations of a gateway that runs, through its admin door.
type AdminClient struct{ http http.Client }

// Call does an operation. The response's members are decoded into resp, which
// may be nil. Errors of the API are *Error.
func (a *AdminClient) Call(ctx context.Context, action string, parameters map[string]string, resp any) error {
	body, err := json.Marshal(AdminRequest{action, parameters})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://kmsgate/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := a.http.Do(r)
	if err != nil {
		return fmt.Errorf("asking the gateway: %w", err)
	}
	defer answer.Body.Close()
	d := json.NewDecoder(answer.Body)
	if answer.StatusCode != http.StatusOK {
		var api errorBody
		if err := d.Decode(&api); err != nil {
			return fmt.Errorf("the gateway answered with status %d and no error of the API: %w", answer.StatusCode, err)
		}
		return &Error{api.HttpStatus, api.Code, api.Message}
	}
	if resp == nil {
		return nil
	}
	return d.Decode(resp)
}

// Close ends the connection.
func (a *AdminClient) Close() error {
	a.http.CloseIdleConnections()
	return nil
}
