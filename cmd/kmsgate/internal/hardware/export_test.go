package hardware

import (
	"log/slog"
	"time"

	"github.com/kmsgate/kmsgate/internal/config"
)

// GenerateAfter returns the limit of a call that makes a key, as the token gets it.
func GenerateAfter(c *config.Config) (time.Duration, error) {
	cfg, err := device{config: c, logger: slog.Default()}.tokenConfig(false)
	return cfg.GenerateAfter, err
}
