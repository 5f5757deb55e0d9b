package gateway

import "time"

// What the zero fields of a [Config] mean.
const (
	DefaultMaxKeys            = 100_000
	DefaultMaxAliases         = 100_000
	DefaultMinVersionInterval = 7 * 24 * time.Hour // as in KMS
)

// DefaultListener returns what the zero fields of a [Listener] mean.
func DefaultListener() Listener {
	return Listener{Gateway: DedicatedGateway, ClientCertificates: NoCertificates}.withDefaults()
}
