// Package config is the one file that `kmsgate serve` is told everything by.
//
// It guarantees that a configuration which is not wholly understood is not used
// at all: a field that is unknown, given twice, of the wrong kind, out of range
// or in contradiction to another is refused, and all such mistakes are named at
// once. What it gives out has every default filled in and every path absolute.
// It never holds a secret: the PIN is named by file or variable only.
package config

import (
	_ "embed"
	"time"

	"go.yaml.in/yaml/v3"
)

// Example is a configuration with every field, its default and what it means.
//
//go:embed example.yaml
var Example string

// Config is the configuration file. The fields' tags are read by [Parse]: is
// names the form that a string has to have, oneof its possible values and min
// the least value of a number, 0 if there is none; required fields must not be
// empty.
type Config struct {
	// Directory is the base for what is named relatively below. Default: the
	// directory of the file itself.
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

// Instance is the KMS instance that the gateway stands for.
type Instance struct {
	ID      string `yaml:"id" is:"instance" required:"true"`     // kst-…: the first label of its endpoint's name
	Region  string `yaml:"region" is:"region" required:"true"`   // cn-hangzhou and the like: part of every ARN
	Account string `yaml:"account" is:"account" required:"true"` // 1 to 32 digits: part of every ARN
}

// Token is where the keys are: either a PKCS#11 module, or SoftHSM.
type Token struct {
	Module   string `yaml:"module" is:"path"`                   // the PKCS#11 module, a shared library
	Label    string `yaml:"label" is:"label"`                   // the token's label; this or Serial
	Serial   string `yaml:"serial" is:"serial"`                 // the token's serial number; this or Label
	PINFile  string `yaml:"pin_file" is:"path"`                 // holds the user PIN, for its owner only; this or PINEnv
	PINEnv   string `yaml:"pin_env" is:"variable"`              // the environment variable with the user PIN; this or PINFile
	UserType string `yaml:"user_type" oneof:"user crypto_user"` // whose PIN it is
	Sessions int    `yaml:"sessions"`                           // signatures at once; 0: one for each core

	// SessionCopies says whether keys are copied into sessions to sign with: auto, where the
	// token can do so and signs faster, or off.
	SessionCopies string `yaml:"session_copies" oneof:"auto off"`

	// SoftHSMConf is SoftHSM's own configuration, if Module is SoftHSM; empty: the
	// one that SoftHSM finds by itself.
	SoftHSMConf string `yaml:"softhsm_conf" is:"path"`

	// SoftHSM is the directory of a SoftHSM token of the gateway's own, made if
	// it is missing, for trials. None of the above goes with it.
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
	RotateSize      Size          `yaml:"rotate_size" min:"64KiB"` // how large a file becomes. Less is a forgotten unit
	RotateAge       time.Duration `yaml:"rotate_age"`              // how old it becomes; 0: by size only
	WarnFree        Size          `yaml:"warn_free"`               // the room on the disk below which it is said; 0: never
}

// TLS is the certificate that all listeners show: the operator's own, or else
// one that the gateway's CA issues anew at every start.
type TLS struct {
	CAFile      string   `yaml:"ca_file" is:"path"`     // written: what clients have to trust
	CAKeyFile   string   `yaml:"ca_key_file" is:"path"` // the CA that init makes
	Certificate string   `yaml:"certificate" is:"path"` // the operator's own chain, PEM; needs Key, and then there is no CA
	Key         string   `yaml:"key" is:"path"`         // its private key, PEM
	Names       []string `yaml:"names" is:"name"`       // DNS names and addresses that the CA's certificate is for, besides the usual
}

// Listener is one address that the API is served on.
type Listener struct {
	Address    string `yaml:"address" is:"address" required:"true"`             // host:port
	Gateway    string `yaml:"gateway" oneof:"shared dedicated" required:"true"` // whose quotas apply
	Operations string `yaml:"operations" oneof:"all business" required:"true"`  // business: AsymmetricSign, AsymmetricVerify, GetPublicKey and GenerateRandom only

	// ClientCertificates says whether a connection has to show the certificate of a
	// client key: nobody is asked for one, or nobody is let in without.
	ClientCertificates string `yaml:"client_certificates" oneof:"none required"`

	MaxConnections          int `yaml:"max_connections" min:"1"`
	MaxConnectionsPerSource int `yaml:"max_connections_per_source" min:"1"`

	HeaderTimeout time.Duration `yaml:"header_timeout" min:"1s"` // for a request's header
	ReadTimeout   time.Duration `yaml:"read_timeout" min:"1s"`   // for all of a request
	IdleTimeout   time.Duration `yaml:"idle_timeout" min:"1s"`   // between requests
}

// Quotas are how much is served before callers are told to slow down.
type Quotas struct {
	Shared    SharedQuotas    `yaml:"shared"`
	Dedicated DedicatedQuotas `yaml:"dedicated"`
}

// SharedQuotas are a shared gateway's: requests per second of one user.
type SharedQuotas struct {
	Asymmetric   int `yaml:"asymmetric" min:"1"`
	KeyRead      int `yaml:"key_read" min:"1"`
	KeyWrite     int `yaml:"key_write" min:"1"`
	KeyCreation  int `yaml:"key_creation" min:"1"`
	TagQuery     int `yaml:"tag_query" min:"1"`
	InstanceRead int `yaml:"instance_read" min:"1"`
	Activation   int `yaml:"activation" min:"1"`
}

// DedicatedQuotas are a dedicated gateway's: business operations per second.
// Zero means as many as the machine makes.
type DedicatedQuotas struct {
	PerUser  int `yaml:"per_user"`
	Instance int `yaml:"instance"`
}

// Limits are how much there can be.
type Limits struct {
	Keys            int           `yaml:"keys" min:"1"`
	Aliases         int           `yaml:"aliases" min:"1"`
	VersionInterval time.Duration `yaml:"version_interval"` // how long a key waits for its next version; 0: not at all
}

// Admin is the door for root and the service's own user.
type Admin struct {
	Socket string `yaml:"socket" is:"path" required:"true"`
}

// Metrics is where Prometheus asks.
type Metrics struct {
	Listen string `yaml:"listen" is:"address"` // host:port, plain HTTP; empty: nowhere
}

// Log is what goes to standard error.
type Log struct {
	Format string `yaml:"format" oneof:"text json" required:"true"`
	Level  string `yaml:"level" oneof:"debug info warn error" required:"true"` // debug: every request
}

// Marshal writes the configuration in the form that [Parse] reads back as it is.
func (c *Config) Marshal() ([]byte, error) { return yaml.Marshal(c) }
