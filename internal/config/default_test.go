package config_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kmsgate/kmsgate/gateway"
	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/internal/config"
)

// TestDefaultsAreTheGateways tests that the defaults of the configuration equal those of the
// gateway. TestExampleIsComplete compares the example with the same values.
func TestDefaultsAreTheGateways(t *testing.T) {
	l, g := config.DefaultListener(), gateway.DefaultListener()
	d, q := config.Default(), limit.DefaultQuotas()
	shared := d.Quotas.Shared
	for name, pair := range map[string][2]any{
		"the listener": {g, gateway.Listener{
			Gateway: l.Gateway, BusinessOnly: l.Operations == "business", ClientCertificates: l.ClientCertificates,
			MaxConnections: l.MaxConnections, MaxPerSource: l.MaxConnectionsPerSource,
			HeaderTime: l.HeaderTimeout, ReadTime: l.ReadTimeout, IdleTime: l.IdleTimeout,
		}},
		"a shared gateway's quotas": {q.Shared, map[string]float64{
			"asymmetric": float64(shared.Asymmetric), "key_read": float64(shared.KeyRead), "key_write": float64(shared.KeyWrite),
			"key_creation": float64(shared.KeyCreation), "tag_query": float64(shared.TagQuery),
			"instance_read": float64(shared.InstanceRead), "activation": float64(shared.Activation),
		}},
		"a dedicated gateway's quotas": {
			[]float64{q.DedicatedUser, q.DedicatedInstance, q.DedicatedOther},
			[]float64{float64(d.Quotas.Dedicated.PerUser), float64(d.Quotas.Dedicated.Instance), float64(d.Quotas.Dedicated.Other)},
		},
		"limits.keys":              {gateway.DefaultMaxKeys, d.Limits.Keys},
		"limits.aliases":           {gateway.DefaultMaxAliases, d.Limits.Aliases},
		"limits.version_interval":  {gateway.DefaultMinVersionInterval, d.Limits.VersionInterval},
		"token.generation_timeout": {gateway.DefaultGenerationTimeout, d.Token.GenerationTimeout},
		"audit.checkpoint_every":   {audit.DefaultCheckpointEvery, d.Audit.CheckpointEvery},
		"audit.rotate_size":        {int64(audit.DefaultRotateSize), int64(d.Audit.RotateSize)},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("%s: - gateway, + configuration:\n%s", name, diff)
		}
	}
}
