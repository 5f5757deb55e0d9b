// Package apiclient calls a gateway, or KMS itself, over HTTPS with an AccessKey, as Alibaba
// Cloud's SDKs do (signature ACS3-HMAC-SHA256).
package apiclient

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/secret"
)

// A Config configures a Client. Endpoint and the AccessKey are required.
type Config struct {
	// Endpoint is host, host:port or an https URL without a path, as SDKs accept it.
	Endpoint        string
	RootCAs         *x509.CertPool // nil for those of the system
	AccessKeyId     string
	AccessKeySecret secret.Text
}

// errEndpoint does not show the endpoint: it may have a password in it.
var errEndpoint = errors.New("the endpoint is not HOST, HOST:PORT or https://HOST:PORT")

// callTime limits how long one operation may take. Making an RSA_4096 key takes seconds.
const callTime = 30 * time.Second

// maxAnswer limits what is read of an answer. The longest list has 100 items.
const maxAnswer = 4 << 20

// A Client calls one endpoint. Its methods are safe for concurrent use.
type Client struct {
	url    url.URL
	id     string
	secret secret.Text
	http   http.Client
}

// URL returns the URL that requests go to. It returns an error unless the Config is complete.
func (c Config) URL() (url.URL, error) {
	endpoint := c.Endpoint
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return url.URL{}, errEndpoint
	}
	if c.AccessKeyId == "" || c.AccessKeySecret == "" {
		return url.URL{}, errors.New("an AccessKeyId and an AccessKeySecret are required")
	}
	return url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}, nil
}

// New returns a client. It connects when it calls an operation.
func New(cfg Config) (*Client, error) {
	u, err := cfg.URL()
	if err != nil {
		return nil, err
	}
	return &Client{
		url: u, id: cfg.AccessKeyId, secret: cfg.AccessKeySecret,
		http: http.Client{Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment,
			MaxIdleConnsPerHost: 16,
		}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

// Call calls an operation, and decodes the response into resp, unless resp is nil. Errors of
// the API are *kms.Error. Call never retries: the caller knows what may be repeated.
func (c *Client) Call(ctx context.Context, action string, parameters map[string]string, resp any) error {
	return c.Do(ctx, kms.AdminRequest{Action: action, Parameters: parameters}, resp)
}

// Do is like Call. Here the AccessKey is the user: a request on behalf of another, or as
// administrator, is an error.
func (c *Client) Do(ctx context.Context, request kms.AdminRequest, resp any) error {
	if request.OnBehalfOf != "" || request.AsAdministrator {
		return errors.New("over the network the access key is the user: nothing can be asked on behalf of another user or as administrator")
	}
	action, parameters := request.Action, request.Parameters
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	r, err := c.request(ctx, action, parameters)
	if err != nil {
		return err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("calling %s: %w", action, withoutQuery(err))
	}
	defer answer.Body.Close()
	body := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer))
	if answer.StatusCode == http.StatusOK {
		if resp == nil {
			return nil
		}
		if err := body.Decode(resp); err != nil {
			return fmt.Errorf("calling %s: the endpoint answered with no JSON of the API, or more than %d MiB: is it a KMS endpoint? (%w)", action, maxAnswer>>20, err)
		}
		return nil
	}
	var refusal kms.ErrorBody
	if err := body.Decode(&refusal); err != nil || refusal.Code == "" {
		return fmt.Errorf("calling %s: the endpoint answered with status %d and no error of the API: is it a KMS endpoint?", action, answer.StatusCode)
	}
	return &kms.Error{Status: answer.StatusCode, Code: refusal.Code, Message: refusal.Message}
}

// Stream fails: no operation of this API answers with octets.
func (c *Client) Stream(context.Context, string, map[string]string, io.Writer) error {
	return kms.ErrNoOctets
}

// Close closes idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// withoutQuery removes the URL from an error of net/http: the parameters are in its query.
func withoutQuery(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// request returns a signed request. The string to sign is the one that package acs reads from
// the request, so that client and server have one implementation of it.
func (c *Client) request(ctx context.Context, action string, parameters map[string]string) (*http.Request, error) {
	query := make(url.Values)
	for name, value := range parameters {
		query.Set(name, value)
	}
	u := c.url
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"x-acs-action": action, "x-acs-version": "2016-01-20", "x-acs-date": time.Now().UTC().Format("2006-01-02T15:04:05Z"),
		"x-acs-signature-nonce": uuid.NewString(), "x-acs-content-sha256": hex.EncodeToString(sha256.New().Sum(nil)),
		"Accept": "application/json",
	} {
		r.Header.Set(name, value)
	}
	authorization := func(signature []byte) string {
		return fmt.Sprintf("ACS3-HMAC-SHA256 Credential=%s,SignedHeaders=host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version,Signature=%x", c.id, signature)
	}
	r.Header.Set("Authorization", authorization(make([]byte, sha256.Size)))
	claim, err := acs.Parse(r, "")
	if err != nil {
		return nil, fmt.Errorf("signing the request: %w", err)
	}
	mac := hmac.New(sha256.New, []byte(c.secret))
	mac.Write([]byte(claim.StringToSign()))
	r.Header.Set("Authorization", authorization(mac.Sum(nil)))
	return r, nil
}
