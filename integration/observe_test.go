package integration

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
)

// observe sends a GET request to a gateway's admin socket, as a supervisor does.
func observe(t *testing.T, env map[string]string, path string) (status int, body string) {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", env["KMSGATE_ADMIN_SOCKET"])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	resp, err := client.Get("http://kmsgate" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}
