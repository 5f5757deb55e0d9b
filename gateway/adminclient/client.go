// Package adminclient calls operations of a running gateway through its admin socket. Only
// root and the user that the gateway runs as can do so.
//
// A socket is a file, so another user of the machine may have put another one there. A client sends
// nothing before it knows that the right gateway is at the other end: see [Gateway].
package adminclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// The time that the gateway has to answer, except to [Client.Stream]. The gateway itself limits
// the time for a key pair, because some tokens take minutes.
const (
	callTime   = time.Minute
	createTime = 24 * time.Hour
)

// A Client calls one gateway. Its methods are safe for concurrent use.
type Client struct {
	gateway Gateway
	http    http.Client
}

// Dial returns a client of the gateway whose admin socket is at path, whichever that is.
func Dial(path string) *Client { return New(Gateway{Socket: path}) }

// New returns a client of a gateway. It does not connect: the first call does.
func New(g Gateway) *Client {
	connect := func(ctx context.Context, _, _ string) (net.Conn, error) { return g.connect(ctx) }
	return &Client{g, http.Client{Transport: &http.Transport{DialContext: connect}}}
}

// Probe connects to the socket, and says why it cannot or must not. It sends nothing, so it does not
// compare the instance: each connection of a call does, before anything else is sent.
func (c *Client) Probe(ctx context.Context) error {
	g := c.gateway
	g.Instance = ""
	conn, err := g.connect(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Call calls an operation and decodes its response into resp, unless that is nil. It waits
// for the answer for a minute at most. Errors of the API are *kms.Error. For an operation
// that returns octets, the error is kms.ErrOctets.
func (c *Client) Call(ctx context.Context, action string, parameters map[string]string, resp any) error {
	return c.Do(ctx, kms.AdminRequest{Action: action, Parameters: parameters}, resp)
}

// Do is like Call, for a request that can be on behalf of a user.
func (c *Client) Do(ctx context.Context, request kms.AdminRequest, resp any) error {
	limit := callTime
	switch request.Action {
	case "CreateKey", "CreateKeyVersion", "CreateNamedKey":
		limit = createTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := c.post(ctx, request)
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
	if err := json.NewDecoder(answer.Body).Decode(resp); err != nil {
		return fmt.Errorf("decoding the gateway's answer to %q: %w (%w)", request.Action, err, kms.ErrNoAnswer)
	}
	return nil
}

// Stream calls an operation that returns octets, and writes them to w. If it returns nil, all
// of them were written. Only ctx limits its time. Errors of the API are *kms.Error. For an
// operation that returns no octets, the error is kms.ErrNoOctets.
func (c *Client) Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error {
	answer, err := c.post(ctx, kms.AdminRequest{Action: action, Parameters: parameters})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.Header.Get("Content-Type") != kms.OctetStream {
		return kms.ErrNoOctets
	}
	if _, err := io.Copy(w, answer.Body); err != nil {
		return fmt.Errorf("reading the gateway's answer to %q: %w", action, err)
	}
	return nil
}

// post calls an operation and returns the answer if it succeeds. The caller must close the
// answer's body.
func (c *Client) post(ctx context.Context, request kms.AdminRequest) (*http.Response, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://kmsgate/", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(r)
	var connection *net.OpError
	var failed *url.Error
	switch {
	case errors.Is(err, ErrUntrusted) && errors.As(err, &failed):
		return nil, failed.Err
	case errors.As(err, &connection) && connection.Op == "dial", errors.Is(ctx.Err(), context.Canceled):
		return nil, fmt.Errorf("calling the gateway: %w", err)
	case err != nil:
		return nil, fmt.Errorf("calling the gateway: %w (%w)", err, kms.ErrNoAnswer)
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	var api kms.ErrorBody
	if err := json.NewDecoder(answer.Body).Decode(&api); err != nil {
		return nil, fmt.Errorf("decoding the gateway's answer to %q (HTTP status %d): %w (%w)",
			request.Action, answer.StatusCode, err, kms.ErrNoAnswer)
	}
	return nil, &kms.Error{Status: api.HttpStatus, Code: api.Code, Message: api.Message}
}

// Close closes idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}
