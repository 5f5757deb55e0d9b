// Package hardwaretest makes an appliance with a SoftHSM token for the tests of commands.
package hardwaretest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
)

// Open creates an appliance in a new directory, and returns its configuration file and the open
// appliance, which the caller must close.
func Open(t *testing.T) (path string, a *appliance.Appliance) {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", "") // opening sets it; the test's end puts it back
	dir := t.TempDir()
	text := "instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: softhsm}\nlisteners: [{address: '127.0.0.1:0'}]\nadmin: {socket: " + config.SocketIn(dir) + "}\n"
	path = filepath.Join(dir, config.FileName)
	if err := errors.Join(os.Chmod(dir, 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	a, err = hardware.Open(t.Context(), c, appliance.Options{Provision: true, Logger: config.Log{}.Quiet(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	return path, a
}
