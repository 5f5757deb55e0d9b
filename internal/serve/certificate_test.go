package serve_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/serve"
	"github.com/kmsgate/kmsgate/internal/servercert/servercerttest"
	"github.com/kmsgate/kmsgate/internal/softwarekeys"
)

// startServing creates an appliance and serves it on two listeners until the test ends.
func startServing(t *testing.T, dir, text string) (*serve.Listeners, *appliance.Appliance) {
	t.Helper()
	c, err := config.Parse([]byte(text), dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := serve.Listen(dir, []string{"127.0.0.1:0", "127.0.0.1:0"}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	a, err := appliance.Open(t.Context(), c, appliance.Options{Provision: true, Device: softwarekeys.Device, Logger: config.Log{}.Quiet(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	a.ReloadCertificate() // before there is one
	if err := l.ListenAdmin(a); err != nil {
		t.Fatal(errors.Join(err, a.Close()))
	}
	served := make(chan error, 1)
	go func() { served <- l.Serve(t.Context(), a, nil) }()
	t.Cleanup(func() {
		if err := errors.Join(<-served, a.Close()); err != nil {
			t.Error(err)
		}
	})
	return l, a
}

// TestCertificateReplaced tests that every listener presents an operator's certificate that was
// replaced while it serves, that it keeps the certificate if the key does not match, and that the
// metrics show when the certificate expires.
func TestCertificateReplaced(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	issuer := servercerttest.NewIssuer(t)
	replace := func() {
		t.Helper()
		certificate, key := issuer.Issue(t, nil)
		servercerttest.Replace(t, certFile, certificate)
		servercerttest.Replace(t, keyFile, key)
	}
	replace()
	l, a := startServing(t, dir, "instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: unused}\n"+
		"listeners: [{address: '127.0.0.1:0'}, {address: '127.0.0.1:0', client_certificates: required}]\n"+
		"tls: {certificate: cert.pem, key: key.pem}\nadmin: {socket: "+config.SocketIn(dir)+"}\n")
	first := presented(t, l, issuer)
	replace()
	a.ReloadCertificate()
	second := presented(t, l, issuer)
	if second.Equal(first) {
		t.Error("the listeners present the first certificate after ReloadCertificate, want the second")
	}
	_, key := issuer.Issue(t, nil)
	servercerttest.Replace(t, keyFile, key)
	a.ReloadCertificate()
	if !presented(t, l, issuer).Equal(second) {
		t.Error("the listeners present another certificate after ReloadCertificate with a key that does not match, want the second")
	}
	answer := httptest.NewRecorder()
	a.Server.MetricsHandler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	expiry := strconv.FormatFloat(float64(second.NotAfter.Unix()), 'g', -1, 64)
	if want := `kmsgate_certificate_expiry_seconds{certificate="server"} ` + expiry + "\n"; !strings.Contains(answer.Body.String(), want) {
		t.Errorf("the metrics lack %s", want)
	}
}

// presented returns the certificate that all listeners present. A client without a certificate can
// see that of a listener that requires one.
func presented(t *testing.T, l *serve.Listeners, issuer *servercerttest.Issuer) (leaf *x509.Certificate) {
	t.Helper()
	for _, address := range l.Addresses() {
		conn, err := tls.Dial("tcp", address.String(), &tls.Config{RootCAs: issuer.Pool()})
		if err != nil {
			t.Fatal(err)
		}
		found := conn.ConnectionState().PeerCertificates[0]
		_ = conn.Close() // the gateway may have closed it
		if leaf != nil && !leaf.Equal(found) {
			t.Errorf("the listener %v presents another certificate than the first", address)
		}
		leaf = found
	}
	return leaf
}
