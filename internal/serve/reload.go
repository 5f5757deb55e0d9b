package serve

import (
	"context"
	"log/slog"
	"os"
	"strings"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
)

// A Reloader makes a running gateway follow its configuration file. It changes the quotas and the
// log's level, and has the appliance look at its certificate again. Everything else needs a
// restart. Use [NewReloader].
type Reloader struct {
	load      func() (*config.Config, error)
	current   config.Config // what the gateway follows
	appliance *appliance.Appliance
	server    *gateway.Server
	logger    *slog.Logger
	level     *slog.LevelVar
}

// NewReloader returns a Reloader for an open appliance, whose logger has that level. load reads and
// checks the configuration file.
func NewReloader(
	a *appliance.Appliance, load func() (*config.Config, error), logger *slog.Logger, level *slog.LevelVar,
) *Reloader {
	return &Reloader{load: load, current: *a.Config, appliance: a, server: a.Server, logger: logger, level: level}
}

// Run reloads at each hangup until ctx is done. It may still be at work when the appliance is
// closed.
func (r *Reloader) Run(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			r.Reload()
		}
	}
}

// Reload reads the configuration file, applies what can change, and logs the result. If the file
// has a mistake, it logs all mistakes and changes nothing.
func (r *Reloader) Reload() {
	c, err := r.load()
	if err == nil {
		err = r.server.SetQuotas(appliance.Quotas(c.Quotas))
	}
	if err != nil {
		r.logger.Error("not reloaded: the gateway continues with the configuration that it has; correct the file and send SIGHUP again", "err", err)
		return
	}
	r.appliance.ReloadCertificate()
	var applied, pending []string
	for _, field := range config.Changed(&r.current, c) {
		if strings.HasPrefix(field, "quotas.") || field == "log.level" {
			applied = append(applied, field)
		} else {
			pending = append(pending, field)
		}
	}
	r.current.Quotas, r.current.Log.Level = c.Quotas, c.Log.Level
	before, after := r.level.Level(), c.Log.SlogLevel()
	r.level.Set(min(before, after)) // either level may let the result through
	if pending != nil {
		r.logger.Warn("these changes of the configuration need a restart of the gateway", "fields", pending)
	}
	r.logger.Info("reloaded", "changed", applied)
	r.level.Set(after)
}
