package hardware

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/token"
)

// collectors returns the metrics of the connection to a token.
func collectors(t hsm.Token) []prometheus.Collector {
	tok := t.(*token.Token) // device opens no other
	gauge := func(name, help string, value func(token.Stats) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return value(tok.Stats()) })
	}
	return []prometheus.Collector{
		gauge("kmsgate_token_connected", "1 while the gateway is connected to the token, else 0.", func(s token.Stats) float64 {
			if s.Connected {
				return 1
			}
			return 0
		}),
		gauge("kmsgate_token_waiting", "Operations waiting for a session with the token.",
			func(s token.Stats) float64 { return float64(s.Waiting) }),
		prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: "kmsgate_token_losses_total", Help: "Lost connections to the token."},
			func() float64 { return float64(tok.Stats().Losses) }),
	}
}
