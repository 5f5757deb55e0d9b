// Package config reads the configuration file, which holds all settings of `kmsgate serve`.
//
// It uses no configuration that it does not fully understand. It refuses a field that is
// unknown, set twice, of the wrong kind, out of range, or in contradiction to another, and
// reports all such mistakes at once. A [Config] has every default filled in and every path
// absolute. It never holds a secret: it only names the file or the environment variable that
// holds the PIN.
package config

import (
	_ "embed"
	"time"

	"go.yaml.in/yaml/v3"
)

// Example is a configuration with every field, its default and its meaning.
//
//go:embed example.yaml
var Example string

// Config is the content of the configuration file. [Parse] reads the tags of its fields:
//
//   - is names the form that a string must have;
//   - oneof lists the possible values of a string;
//   - min is the minimum of a number; without it the minimum is 0;
//   - a field with required must not be empty.
type Config struct {
	// Directory is the base of all relative paths. The default is the directory of the file
	// itself.
	Directory string `yaml:"directory" is:"path"`

	Instance  Instance   `yaml:"instance"`
	Token     Token      `yaml:"token"`
	Store     Store      `yaml:"store"`
	Audit     Audit      `yaml:"audit"`
	TLS       TLS        `yaml:"tls"`
	Listeners []Listener `yaml:"listeners" required:"true"`
	Quotas    Quotas     `yaml:"quotas"`
	Limits    Limits     `yaml:"limits"`
	Admin     Admin      `yaml:"admin"`
	Metrics   Metrics    `yaml:"metrics"`
	Log       Log        `yaml:"log"`
}

// Instance is the KMS instance that the gateway represents.
type Instance struct {
	ID      string `yaml:"id" is:"instance" required:"true"`     // kst-…: the first label of the endpoint's name
	Region  string `yaml:"region" is:"region" required:"true"`   // such as cn-hangzhou; part of every ARN
	Account string `yaml:"account" is:"account" required:"true"` // 1 to 32 digits; part of every ARN
}

// Token is the token that holds the keys: that of a PKCS#11 module, or a SoftHSM token for
// trials.
type Token struct {
	Module   string `yaml:"module" is:"path"`                   // the PKCS#11 module, a shared library
	Label    string `yaml:"label" is:"label"`                   // the token's label; excludes Serial
	Serial   string `yaml:"serial" is:"serial"`                 // the token's serial number; excludes Label
	PINFile  string `yaml:"pin_file" is:"path"`                 // the file with the user PIN; excludes PINEnv
	PINEnv   string `yaml:"pin_env" is:"variable"`              // the environment variable with it; excludes PINFile
	UserType string `yaml:"user_type" oneof:"user crypto_user"` // the type of user to log in as
	Sessions int    `yaml:"sessions"`                           // concurrent signatures; 0: one per core

	// GenerationTimeout is how long the token may take for one key pair before the gateway
	// decides that the token hangs; 0: 10 minutes. Local administrators wait as long for a key, network clients at most 25 s.
	GenerationTimeout time.Duration `yaml:"generation_timeout"`

	// SessionCopies controls whether the gateway copies keys into sessions to sign with them.
	// With auto it does so if the token can, and signs faster then; with off it never does.
	SessionCopies string `yaml:"session_copies" oneof:"auto off"`

	// SoftHSMConf is the path of SoftHSM's configuration, if Module is SoftHSM. If it is empty,
	// SoftHSM finds its configuration by itself.
	SoftHSMConf string `yaml:"softhsm_conf" is:"path"`

	// SoftHSM is the directory of a SoftHSM token that only the gateway uses, for trials. The
	// gateway creates the token if it is missing. It excludes all fields above except
	// SessionCopies.
	SoftHSM string `yaml:"softhsm" is:"path"`
}

// Store is the database.
type Store struct {
	File string `yaml:"file" is:"path" required:"true"`
}

// Audit is the audit log.
type Audit struct {
	File            string        `yaml:"file" is:"path" required:"true"`
	CheckpointEvery time.Duration `yaml:"checkpoint_every" min:"1s"`
	RotateSize      Size          `yaml:"rotate_size" min:"64KiB"` // a smaller value lacks its unit
	RotateAge       time.Duration `yaml:"rotate_age"`              // 0: rotate by size only
	KeepAge         time.Duration `yaml:"keep_age"`                // age of the newest line beyond which to delete a file; 0: never
	KeepSize        Size          `yaml:"keep_size"`               // total size beyond which to delete the oldest files; 0: never
	WarnFree        Size          `yaml:"warn_free"`               // free disk space below which to warn; 0: never
	Reserve         Size          `yaml:"reserve"`                 // free disk space for administrators, at most 5 % of the disk; 0: none
}

// TLS is the certificate of all listeners: the one that the operator provides, or else one
// that the gateway's CA issues at every start and renews. A running gateway takes what the
// operator writes to the files Certificate and Key.
type TLS struct {
	CAFile      string   `yaml:"ca_file" is:"path"`     // the CA's certificate for clients, which kmsgate writes
	CAKeyFile   string   `yaml:"ca_key_file" is:"path"` // the CA's key and certificate, which init creates
	Certificate string   `yaml:"certificate" is:"path"` // the operator's certificate chain, PEM; needs Key, excludes a CA
	Key         string   `yaml:"key" is:"path"`         // the private key of Certificate, in PEM
	Names       []string `yaml:"names" is:"name"`       // further DNS names and IP addresses for the CA's certificates
}

// Listener is an address that the API is served on.
type Listener struct {
	Address string `yaml:"address" is:"address" required:"true"`             // host:port
	Gateway string `yaml:"gateway" oneof:"shared dedicated" required:"true"` // selects the quotas

	// Operations selects the operations: all, or with business only AsymmetricSign,
	// AsymmetricVerify, GetPublicKey and GenerateRandom.
	Operations string `yaml:"operations" oneof:"all business" required:"true"`

	// ClientCertificates controls TLS client authentication. With none the gateway requests
	// no certificate; with required every connection needs the certificate of a client key.
	ClientCertificates string `yaml:"client_certificates" oneof:"none required"`

	MaxConnections          int `yaml:"max_connections" min:"1"`
	MaxConnectionsPerSource int `yaml:"max_connections_per_source" min:"1"`

	HeaderTimeout time.Duration `yaml:"header_timeout" min:"1s"` // for a request's header
	ReadTimeout   time.Duration `yaml:"read_timeout" min:"1s"`   // for a whole request
	IdleTimeout   time.Duration `yaml:"idle_timeout" min:"1s"`   // between two requests
}

// Quotas limit the rate of requests. The gateway refuses requests beyond them.
type Quotas struct {
	Shared    SharedQuotas    `yaml:"shared"`
	Dedicated DedicatedQuotas `yaml:"dedicated"`
}

// SharedQuotas are a shared gateway's limits, in requests per second of one user.
type SharedQuotas struct {
	Asymmetric   int `yaml:"asymmetric" min:"1"`
	KeyRead      int `yaml:"key_read" min:"1"`
	KeyWrite     int `yaml:"key_write" min:"1"`
	KeyCreation  int `yaml:"key_creation" min:"1"`
	TagQuery     int `yaml:"tag_query" min:"1"`
	InstanceRead int `yaml:"instance_read" min:"1"`
	Activation   int `yaml:"activation" min:"1"`
}

// DedicatedQuotas are a dedicated gateway's limits, in requests per second. Zero means no limit.
type DedicatedQuotas struct {
	PerUser  int `yaml:"per_user"` // business operations of one user
	Instance int `yaml:"instance"` // business operations of all users
	Other    int `yaml:"other"`    // all other requests of one user
}

// Limits limit the number and the age of resources.
type Limits struct {
	Keys            int           `yaml:"keys" min:"1"`
	Aliases         int           `yaml:"aliases" min:"1"`
	VersionInterval time.Duration `yaml:"version_interval"` // minimum time between two versions of a key; 0: none
}

// Admin is the admin socket, for root and the gateway's user.
type Admin struct {
	Socket string `yaml:"socket" is:"path" required:"true"`
	// SigningUser is the user whose policies apply to kmsgate sign without --user; empty: none.
	SigningUser string `yaml:"signing_user"`
}

// Metrics is the endpoint for Prometheus.
type Metrics struct {
	Listen string `yaml:"listen" is:"address"` // host:port, plain HTTP; empty: no endpoint
}

// Log controls the log on standard error.
type Log struct {
	Format string `yaml:"format" oneof:"text json" required:"true"`
	Level  string `yaml:"level" oneof:"debug info warn error" required:"true"` // debug logs every request
}

// Marshal encodes the configuration as YAML. [Parse] decodes the result to an equal Config.
func (c *Config) Marshal() ([]byte, error) { return yaml.Marshal(c) }
