// Package adminclient asks a running gateway for operations, through its admin door: as
// root, or as the user that the gateway runs as.
package adminclient

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

// callTime is how long an answer may take that is no stream.
const callTime = time.Minute

// A Client is a connection to one gateway. Its methods may be called from any goroutine.
type Client struct{ http http.Client }

// Dial returns a client of the gateway whose admin socket is at path. It connects when it is
// asked for something.
func Dial(path string) *Client {
	return &Client{http.Client{
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		}},
	}}
}

// Call does an operation. The response's members are decoded into resp, which
// may be nil. Errors of the API are *kms.Error.
func (c *Client) Call(ctx context.Context, action string, parameters map[string]string, resp any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	answer, err := c.ask(ctx, action, parameters)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.Header.Get("Content-Type") == kms.OctetStream {
		return kms.ErrOctets
	}
	if resp == nil {
		return nil
	}
	return json.NewDecoder(answer.Body).Decode(resp)
}

// Stream does an operation that answers with octets, which are written to w.
// Without an error they are all there. It takes as long as it takes, or until ctx
// is done.
func (c *Client) Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error {
	answer, err := c.ask(ctx, action, parameters)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.Header.Get("Content-Type") != kms.OctetStream {
		return kms.ErrNoOctets
	}
	if _, err := io.Copy(w, answer.Body); err != nil {
		return fmt.Errorf("reading the gateway's answer: %w", err)
	}
	return nil
}

// ask gives the answer to an operation that succeeded. Its body has to be closed.
func (c *Client) ask(ctx context.Context, action string, parameters map[string]string) (*http.Response, error) {
	body, err := json.Marshal(kms.AdminRequest{Action: action, Parameters: parameters})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://kmsgate/", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(r)
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
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}
