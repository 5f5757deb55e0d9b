package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/kmsgate/kmsgate/gateway/apiclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

const (
	// callTime limits how long a call may take.
	callTime = 30 * time.Second
	// maxAnswer limits the body of an answer, in bytes. That of a signature has less than 1,000.
	maxAnswer = 64 << 10
)

// An Endpoint is where a load goes: a gateway, or KMS.
type Endpoint struct {
	config apiclient.Config
	url    url.URL
}

// NewEndpoint returns an endpoint. It does not connect.
func NewEndpoint(cfg apiclient.Config) (*Endpoint, error) {
	u, err := cfg.URL()
	return &Endpoint{cfg, u}, err
}

// A connection is a Caller that sends one request again and again, over one TLS connection. After an
// error it connects again. It uses no proxy.
type connection struct {
	endpoint *Endpoint
	request  *signedRequest
	conn     net.Conn // nil if there is none
	stop     func() bool
	reader   *bufio.Reader
	body     bytes.Buffer // of the last answer
	answered func(body []byte)
}

// call returns a caller of an operation. It passes the body of every successful answer to answered; the body
// is valid until answered returns.
func (e *Endpoint) call(action string, parameters map[string]string, answered func(body []byte)) *connection {
	return &connection{
		endpoint: e, request: newSignedRequest(e.config, e.url.Host, action, parameters),
		reader: bufio.NewReader(nil), answered: answered,
	}
}

func (c *connection) open(ctx context.Context) error {
	address := c.endpoint.url.Host
	if c.endpoint.url.Port() == "" {
		address = net.JoinHostPort(c.endpoint.url.Hostname(), "443")
	}
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: c.endpoint.config.RootCAs, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", address, err)
	}
	c.conn = conn
	c.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	c.reader.Reset(conn)
	return nil
}

// Call implements Caller.
func (c *connection) Call(ctx context.Context) error {
	if c.conn == nil {
		if err := c.open(ctx); err != nil {
			return err
		}
	}
	status, last, err := c.exchange()
	if err != nil || last {
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		return fmt.Errorf("calling %s: %w", c.endpoint.url.Host, err)
	}
	if status == http.StatusOK && bytes.HasPrefix(c.body.Bytes(), []byte("{")) {
		c.answered(c.body.Bytes())
		return nil
	}
	var refusal kms.ErrorBody
	if err := json.Unmarshal(c.body.Bytes(), &refusal); err != nil || refusal.Code == "" {
		return fmt.Errorf("%s answered with HTTP status %d, but not in the API's JSON (check --endpoint)", c.endpoint.url.Host, status)
	}
	return &kms.Error{Status: status, Code: refusal.Code, Message: refusal.Message}
}

// exchange sends a request and reads the answer into c.body. last reports that the connection cannot
// be used again.
func (c *connection) exchange() (status int, last bool, err error) {
	now := time.Now()
	if err := c.conn.SetDeadline(now.Add(callTime)); err != nil {
		return 0, false, err
	}
	if _, err := c.conn.Write(c.request.next(now)); err != nil {
		return 0, false, err
	}
	answer, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, false, err
	}
	defer answer.Body.Close()
	c.body.Reset()
	n, err := c.body.ReadFrom(io.LimitReader(answer.Body, maxAnswer))
	if n == maxAnswer {
		return 0, false, fmt.Errorf("the answer has more than %d bytes", maxAnswer-1)
	}
	return answer.StatusCode, answer.Close, err
}

// Close implements Caller.
func (c *connection) Close() error {
	if c.conn == nil {
		return nil
	}
	c.stop()
	err := c.conn.Close()
	c.conn = nil
	return err
}
