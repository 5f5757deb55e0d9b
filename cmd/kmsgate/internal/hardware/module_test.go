package hardware_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/ownership"
)

// TestWritableModule tests that nothing loads a module that another user can write, or that is in a
// directory that another user can write.
func TestWritableModule(t *testing.T) {
	for name, spoil := range map[string]func(module string) error{
		"the module":    func(module string) error { return os.Chmod(module, 0o666) },
		"its directory": func(module string) error { return os.Chmod(filepath.Dir(module), 0o777) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newConfig(t)
			module, pin := filepath.Join(t.TempDir(), "module.so"), filepath.Join(c.Directory, "pin")
			err := errors.Join(os.WriteFile(module, nil, 0o600), os.WriteFile(pin, []byte("1234"), 0o600), spoil(module))
			if err != nil {
				t.Fatal(err)
			}
			vendors := *c
			vendors.Token = config.Token{Module: module, Label: "kmsgate", PINFile: pin, UserType: "user"}
			t.Setenv("SOFTHSM2_MODULE", module)
			o := options(t)
			o.Provision = true
			for use, err := range map[string]error{
				"Open":              opening(t, &vendors, o),
				"Open with SoftHSM": opening(t, c, o),
				"InspectToken": hardware.InspectToken(vendors.Token, false, o.Logger, func(hsm.Inspector) error {
					return errors.New("the module was loaded")
				}),
			} {
				var other *ownership.Error
				if !errors.As(err, &other) {
					t.Errorf("%s: got %v, want an *ownership.Error", use, err)
				}
			}
		})
	}
}

// opening opens an appliance and returns the error.
func opening(t *testing.T, c *config.Config, o appliance.Options) error {
	t.Helper()
	a, err := hardware.Open(t.Context(), c, o)
	if err == nil {
		closeNow(t, a)
	}
	return err
}
