package config

import "time"

// Default returns the default of every field. Instance, Listeners and Token.Module have no
// default. A caller that sets Token.Serial, Token.PINEnv, Token.SoftHSM or TLS.Certificate must
// empty the fields that it excludes.
func Default() Config {
	return Config{
		Token: Token{Label: "kmsgate", PINFile: "pin", UserType: "user", GenerationTimeout: 10 * time.Minute, SessionCopies: "auto"},
		Store: Store{File: "kmsgate.db"},
		Audit: Audit{
			File:            "audit.log",
			CheckpointEvery: time.Minute,
			RotateSize:      100 * MiB,
			RotateAge:       24 * time.Hour,
			WarnFree:        GiB,
			Reserve:         64 * MiB,
		},
		TLS:    TLS{CAFile: "ca.pem", CAKeyFile: "ca-key.pem"},
		Quotas: defaultQuotas(),
		Limits: Limits{Keys: 100_000, Aliases: 100_000, VersionInterval: 7 * 24 * time.Hour},
		Admin:  Admin{Socket: "admin/admin.sock"},
		Log:    Log{Format: "text", Level: "info"},
	}
}

func defaultQuotas() Quotas {
	return Quotas{
		Shared: SharedQuotas{
			Asymmetric:   200,
			KeyRead:      50,
			KeyWrite:     30,
			KeyCreation:  10,
			TagQuery:     300,
			InstanceRead: 50,
			Activation:   1,
		},
		Dedicated: DedicatedQuotas{Other: 100},
	}
}

// DefaultListener returns the default of every field of a listener. Address has no default.
func DefaultListener() Listener {
	return Listener{
		Gateway:                 "dedicated",
		Operations:              "all",
		ClientCertificates:      "none",
		MaxConnections:          1024,
		MaxConnectionsPerSource: 128,
		HeaderTimeout:           10 * time.Second,
		ReadTimeout:             30 * time.Second,
		IdleTimeout:             2 * time.Minute,
	}
}
