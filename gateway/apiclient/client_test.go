package apiclient_test

import (
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/acs"
	"github.com/kmsgate/kmsgate/gateway/apiclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

const accessKeySecret = "the-secret-of-the-access-key"

// serve starts a server, and returns a client of it and the certificates to trust.
func serve(t *testing.T, handler http.HandlerFunc) (*apiclient.Client, *x509.CertPool, string) {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c, err := apiclient.New(apiclient.Config{Endpoint: server.URL, RootCAs: roots, AccessKeyId: "id", AccessKeySecret: accessKeySecret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, roots, server.URL
}

// TestCall: the server's own code accepts the signature, which covers every parameter.
func TestCall(t *testing.T) {
	parameters := map[string]string{"KeyId": "alias/a b+c/ä", "Digest": "+/=="}
	c, _, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		claim, err := acs.Parse(r, string(body))
		if err != nil || !claim.VerifySecret(acs.NewSecret(accessKeySecret)) || claim.Action != "DescribeKey" || claim.Version != "2016-01-20" {
			t.Errorf("got the claim %+v, %v, want a valid one of DescribeKey", claim, err)
			return
		}
		read := claim.Parameters()
		for name, want := range parameters {
			if got := read[name]; got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		io.WriteString(w, `{"RequestId":"r"}`)
	})
	var answer struct{ RequestId string }
	if err := c.Call(t.Context(), "DescribeKey", parameters, &answer); err != nil || answer.RequestId != "r" {
		t.Errorf("got %+v, %v, want the RequestId r", answer, err)
	}
}

// TestAnswers: what an endpoint answers is an error of the API, or an error that names the call
// and no secret.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"refusal": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			io.WriteString(w, `{"Code":"Forbidden.NoPermission","Message":"no"}`)
		}, "403 Forbidden.NoPermission: no"},
		"HTML": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }, "is it a KMS endpoint?"},
		"an error in HTML": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(502)
			io.WriteString(w, "<html>")
		}, "status 502"},
		"too much": {func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"RequestId":"`+strings.Repeat("x", 5<<20)+`"}`)
		}, "more than 4 MiB"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/away") {
				t.Error("the redirect was followed")
			}
			http.Redirect(w, r, "/away", http.StatusTemporaryRedirect)
		}, "status 307"},
	} {
		client, _, _ := serve(t, c.handler)
		err := client.Call(t.Context(), "DescribeKey", map[string]string{"KeyId": "a-key"}, new(struct{ RequestId string }))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), accessKeySecret) || strings.Contains(err.Error(), "a-key") {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// TestUntrusted: a certificate that the CA did not sign is refused, and so is another name.
func TestUntrusted(t *testing.T) {
	called := func(http.ResponseWriter, *http.Request) { t.Error("an untrusted server got a request") }
	_, _, url := serve(t, called)
	c, err := apiclient.New(apiclient.Config{Endpoint: url, RootCAs: x509.NewCertPool(), AccessKeyId: "id", AccessKeySecret: accessKeySecret})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var unknown x509.UnknownAuthorityError
	if err := c.Call(t.Context(), "ListKeys", nil, nil); !errors.As(err, &unknown) {
		t.Errorf("got %v, want an unknown authority", err)
	}
}

func TestNew(t *testing.T) {
	for _, endpoint := range []string{"", "http://kms.example", "https://user:hunter2@kms.example", "kms.example/path", "https://kms.example?x=y", "ftp://kms.example"} {
		_, err := apiclient.New(apiclient.Config{Endpoint: endpoint, AccessKeyId: "id", AccessKeySecret: accessKeySecret})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("endpoint %q: got %v, want an error without its password", endpoint, err)
		}
	}
	for _, endpoint := range []string{"kms.example", "kms.example:8443", "https://kms.example:8443/", "127.0.0.1:1"} {
		if _, err := apiclient.New(apiclient.Config{Endpoint: endpoint, AccessKeyId: "id", AccessKeySecret: accessKeySecret}); err != nil {
			t.Errorf("endpoint %q: %v", endpoint, err)
		}
	}
	if _, err := apiclient.New(apiclient.Config{Endpoint: "kms.example"}); err == nil {
		t.Error("a client without an access key is accepted")
	}
}

// TestOnBehalf: over the network the access key is the user.
func TestOnBehalf(t *testing.T) {
	c, _, _ := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the server got a request") })
	for _, r := range []kms.AdminRequest{{Action: "AsymmetricSign", OnBehalfOf: "alice"}, {Action: "AsymmetricSign", AsAdministrator: true}} {
		if err := c.Do(t.Context(), r, nil); err == nil {
			t.Errorf("%+v is sent", r)
		}
	}
}
