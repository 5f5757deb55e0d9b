package appliance

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/internal/config"
)

func (a *Appliance) gatewayConfig() gateway.Config {
	c := a.Config
	g := gateway.Config{
		Store: a.Store, Backend: a.keys, Sealer: a.token, Random: a.token, Inspector: a.token, Clock: a.clock, Audit: a.log,
		Logger:  a.options.Logger,
		Quotas:  Quotas(c.Quotas),
		MaxKeys: c.Limits.Keys, MaxAliases: c.Limits.Aliases,
		MinVersionInterval: c.Limits.VersionInterval,
		GenerationTimeout:  c.Token.GenerationTimeout,
		SigningUser:        c.Admin.SigningUser,
		EchoStringToSign:   a.options.EchoStringToSign,
	}
	if g.MinVersionInterval == 0 {
		g.MinVersionInterval = -1 // in gateway.Config, 0 means the default
	}
	if a.options.Collectors != nil {
		g.Collectors = a.options.Collectors(a.token)
	}
	g.Collectors = append(g.Collectors, certificateCollectors(a)...)
	g.Details = append(g.Details, a.certificates.Detail)
	if sink := a.options.LogSink; sink != nil {
		g.Collectors = append(g.Collectors, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "kmsgate_log_lines_dropped_total",
			Help: "Lines of the gateway's log that were dropped because standard error could not be written.",
		}, func() float64 { return float64(sink.Dropped()) }))
	}
	if a.options.Archiver != nil {
		g.Archiver = a.options.Archiver(a)
	}
	if a.ca != nil {
		g.CACertificate = a.ca.Certificate()
	}
	return g
}

// Quotas returns the quotas of a configuration as the gateway has them.
func Quotas(q config.Quotas) limit.Quotas {
	s := q.Shared
	return limit.Quotas{
		Shared: map[string]float64{
			"asymmetric": float64(s.Asymmetric), "key_read": float64(s.KeyRead), "key_write": float64(s.KeyWrite),
			"key_creation": float64(s.KeyCreation), "tag_query": float64(s.TagQuery),
			"instance_read": float64(s.InstanceRead), "activation": float64(s.Activation),
		},
		DedicatedUser: float64(q.Dedicated.PerUser), DedicatedInstance: float64(q.Dedicated.Instance),
		DedicatedOther: float64(q.Dedicated.Other),
	}
}
