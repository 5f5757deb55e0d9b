package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// An AdminClient does operations of a gateway that runs, through its admin door.
type AdminClient struct{ http http.Client }

// DialAdmin makes a client of the admin door at path.
func DialAdmin(path string) *AdminClient {
	return &AdminClient{http.Client{
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		}},
	}}
}

// Call does an operation. The response's members are decoded into resp, which
// may be nil. Errors of the API are *Error.
func (a *AdminClient) Call(ctx context.Context, action string, parameters map[string]string, resp any) error {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	answer, err := a.ask(ctx, action, parameters)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.Header.Get("Content-Type") == octetStream {
		return errOctets
	}
	if resp == nil {
		return nil
	}
	return json.NewDecoder(answer.Body).Decode(resp)
}

// Stream does an operation that answers with octets, which are written to w.
// Without an error they are all there. It takes as long as it takes, or until ctx
// is done.
func (a *AdminClient) Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error {
	answer, err := a.ask(ctx, action, parameters)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.Header.Get("Content-Type") != octetStream {
		return errNoOctets
	}
	if _, err := io.Copy(w, answer.Body); err != nil {
		return fmt.Errorf("reading the gateway's answer: %w", err)
	}
	return nil
}

// ask gives the answer to an operation that succeeded. Its body has to be closed.
func (a *AdminClient) ask(ctx context.Context, action string, parameters map[string]string) (*http.Response, error) {
	body, err := json.Marshal(AdminRequest{action, parameters})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://kmsgate/", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := a.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("asking the gateway: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	var api kms.ErrorBody
	if err := json.NewDecoder(answer.Body).Decode(&api); err != nil {
		return nil, fmt.Errorf("the gateway answered with status %d and no error of the API: %w", answer.StatusCode, err)
	}
	return nil, &kms.Error{Status: api.HttpStatus, Code: api.Code, Message: api.Message}
}

// Close ends the connection.
func (a *AdminClient) Close() error {
	a.http.CloseIdleConnections()
	return nil
}
