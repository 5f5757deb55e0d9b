package gateway

import "time"

// Defaults of a [Config]: a zero field means the default.
const (
	DefaultMaxKeys            = 100_000
	DefaultMaxAliases         = 100_000
	DefaultMinVersionInterval = 7 * 24 * time.Hour // as in KMS
	DefaultGenerationTimeout  = 10 * time.Minute
)

// DefaultListener returns a [Listener] with the default in every field that has one.
func DefaultListener() Listener {
	return Listener{Gateway: DedicatedGateway, ClientCertificates: NoCertificates}.withDefaults()
}
