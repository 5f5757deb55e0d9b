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
	flag := func(name, help string, value func(token.Stats) bool) prometheus.Collector {
		return gauge(name, help, func(s token.Stats) float64 {
			if value(s) {
				return 1
			}
			return 0
		})
	}
	return []prometheus.Collector{
		flag("kmsgate_token_connected", "1 while the gateway is connected to the token, else 0.",
			func(s token.Stats) bool { return s.Connected }),
		flag("kmsgate_token_one_call_at_a_time", "1 if the token is known not to sign while it makes a key, else 0.",
			func(s token.Stats) bool { return s.OneAtATime }),
		gauge("kmsgate_token_waiting", "Operations waiting for a session with the token.",
			func(s token.Stats) float64 { return float64(s.Waiting) }),
		prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: "kmsgate_token_losses_total", Help: "Lost connections to the token."},
			func() float64 { return float64(tok.Stats().Losses) }),
	}
}
