package integration

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// observe sends a GET request to a gateway's admin socket, as a supervisor does.
func observe(t *testing.T, env map[string]string, path string) (status int, body string) {
	t.Helper()
	status, body, err := ask(env, path)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

// ask is like observe, but returns an error if there is no answer within 30 s.
func ask(env map[string]string, path string) (status int, body string, err error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", env["KMSGATE_ADMIN_SOCKET"])
	}
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}, Timeout: 30 * time.Second,
	}
	resp, err := client.Get("http://kmsgate" + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}
