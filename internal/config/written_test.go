package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kmsgate/kmsgate/internal/config"
)

// earlier is a configuration with settings that an earlier version wrote into every backup.
const earlier = `instance:
    id: kst-1
    region: cn-hangzhou
    account: "1000000000000001"
token:
    softhsm: token
listeners:
    - address: 127.0.0.1:8443
      gateway: dedicated
      operations: all
      client_certificates: optional
    - address: 127.0.0.1:8444
      client_certificates: required
quotas:
    shared:
        asymmetric: 20
    unauthenticated:
        lines_per_source: 100
        lines: 1000
        per_minute_per_source: 6
        per_minute: 120
`

// TestLoadWritten loads a configuration of an earlier version, which Load refuses.
func TestLoadWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsgate.yaml")
	if err := os.WriteFile(path, []byte(earlier), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err == nil {
		t.Error("Load: got no error for settings that no longer exist")
	}
	c, err := config.LoadWritten(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listeners[0].ClientCertificates != "none" || c.Listeners[1].ClientCertificates != "required" ||
		c.Quotas.Shared.Asymmetric != 20 {
		t.Errorf("LoadWritten: got %+v", c)
	}
}
