// Package softwarekeys is the device of appliances with keys in software, for tests. Only programs that
// import it contain them.
package softwarekeys

import (
	"path/filepath"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/software"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
)

// Device returns the keys in the configuration's directory, for [appliance.Options].Device.
func Device(c *config.Config, _ appliance.Options) hsm.Device {
	return software.Device(filepath.Join(c.Directory, "software"))
}
