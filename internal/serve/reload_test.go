package serve_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/serve"
	"github.com/kmsgate/kmsgate/internal/servercert/servercerttest"
	"github.com/kmsgate/kmsgate/internal/softwarekeys"
)

// quota returns the gateway's general quota of that name.
func quota(t *testing.T, a *appliance.Appliance, name string) float64 {
	t.Helper()
	var list kms.ListQuotasResponse
	if err := a.Server.Call(t.Context(), "ListQuotas", nil, &list); err != nil {
		t.Fatal(err)
	}
	for _, q := range list.Quotas.Quota {
		if q.QuotaName == name && q.UserName == "" {
			return q.QueriesPerSecond
		}
	}
	t.Fatalf("there is no quota %q", name)
	return 0
}

// TestReload tests that a reload changes the quotas and the log's level, names the changes that need
// a restart, and refuses a configuration with a mistake as a whole.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	parse := func(more string) (*config.Config, error) {
		return config.Parse([]byte("instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: unused}\nlisteners: [{address: '127.0.0.1:0'}]\nadmin: {socket: "+config.SocketIn(dir)+"}\n"+more), dir)
	}
	c, err := parse("")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	logger, level := c.Log.Logger(&log)
	a, err := appliance.Open(t.Context(), c, appliance.Options{Provision: true, Device: softwarekeys.Device, Logger: config.Log{}.Quiet(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	var file string
	r := serve.NewReloader(a, func() (*config.Config, error) { return parse(file) }, logger, level)
	for _, step := range []struct {
		file      string
		keyRead   float64
		level     slog.Level
		want, not string // in the log
	}{
		{"", 50, slog.LevelInfo, "level=INFO msg=reloaded changed=[]", "restart"},
		{"quotas: {shared: {key_read: 7}}\nlog: {level: debug}\n", 7, slog.LevelDebug, "changed=\"[quotas.shared.key_read log.level]\"", "restart"},
		{"quotas: {shared: {key_read: 7}}\nlog: {level: error}\nlimits: {keys: 3}\nlog.level: info\n", 7, slog.LevelDebug, "level=ERROR msg=\"not reloaded: ", "msg=reloaded"},
		{"quotas: {shared: {key_read: 0}}\nlog: {level: error}\n", 7, slog.LevelDebug, "quotas.shared.key_read: ", "msg=reloaded"},
		{"log: {level: error, format: json}\nlimits: {keys: 3}\n", 50, slog.LevelError, "restart of the gateway\" fields=\"[limits.keys log.format]\"", "ERROR"},
		{"limits: {keys: 3}\n", 50, slog.LevelInfo, "fields=[limits.keys]", "key_read"},
	} {
		log.Reset()
		file = step.file
		r.Reload()
		if got := quota(t, a, "key_read"); got != step.keyRead || level.Level() != step.level {
			t.Errorf("after a reload of %q: quota %g, level %v; want %g, %v", step.file, got, level.Level(), step.keyRead, step.level)
		}
		if text := log.String(); !strings.Contains(text, step.want) || strings.Contains(text, step.not) {
			t.Errorf("a reload of %q logs\n%swant %q in it, and not %q", step.file, text, step.want, step.not)
		}
	}
	unreadable := serve.NewReloader(a, func() (*config.Config, error) { return nil, errors.New("permission denied") }, logger, level)
	log.Reset()
	unreadable.Reload()
	if text := log.String(); !strings.Contains(text, "permission denied") {
		t.Errorf("a reload of a file that cannot be read logs\n%s", text)
	}
}

// TestReloadCertificate tests that a reload takes an operator's certificate that was replaced. Nothing
// else looks at its files, because the appliance is not served.
func TestReloadCertificate(t *testing.T) {
	dir, issuer := t.TempDir(), servercerttest.NewIssuer(t)
	replace := func() {
		t.Helper()
		certificate, key := issuer.Issue(t, nil)
		servercerttest.Replace(t, filepath.Join(dir, "cert.pem"), certificate)
		servercerttest.Replace(t, filepath.Join(dir, "key.pem"), key)
	}
	load := func() (*config.Config, error) {
		return config.Parse([]byte("instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: unused}\n"+
			"listeners: [{address: '127.0.0.1:0'}]\ntls: {certificate: cert.pem, key: key.pem}\n"), dir)
	}
	replace()
	c, err := load()
	if err != nil {
		t.Fatal(err)
	}
	a, err := appliance.Open(t.Context(), c, appliance.Options{Provision: true, Device: softwarekeys.Device, Logger: config.Log{}.Quiet(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	served, err := a.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	leaf := func() *x509.Certificate {
		t.Helper()
		certificate, err := served.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return certificate.Leaf
	}
	first := leaf()
	replace()
	if !leaf().Equal(first) {
		t.Error("the certificate was replaced before the reload, so this test cannot fail")
	}
	serve.NewReloader(a, load, config.Log{}.Quiet(t.Output()), new(slog.LevelVar)).Reload()
	if leaf().Equal(first) {
		t.Error("after the reload: got the first certificate, want the second")
	}
}
