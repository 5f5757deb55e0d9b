module github.com/kmsgate/kmsgate

go 1.26.0

toolchain go1.26.11

require (
	filippo.io/age v1.3.2 // backups: encryption to recipients and passphrases
	github.com/HdrHistogram/hdrhistogram-go v1.4.0 // kmsgate bench: latencies in bounded memory
	github.com/ThalesGroup/crypto11 v1.6.2 // the PKCS#11 module's lifecycle, login and AES key
	github.com/anishathalye/porcupine v1.3.1 // tests: whether concurrent answers fit a sequential model
	github.com/decred/dcrd/dcrec/secp256k1/v4 v4.4.1 // secp256k1, which the standard library lacks
	github.com/emmansun/gmsm v0.44.1 // SM2 and SM3
	github.com/google/go-cmp v0.7.0 // tests: differences
	github.com/google/uuid v1.6.0 // KeyId, KeyVersionId, RequestId
	github.com/labstack/echo/v4 v4.16.5 // the HTTP door
	github.com/miekg/pkcs11 v1.1.2 // PKCS#11
	github.com/prometheus/client_golang v1.25.0 // metrics
	github.com/rogpeppe/go-internal v1.16.0 // tests: testscript, for the command line
	github.com/spf13/cobra v1.10.2 // the command line
	github.com/spf13/pflag v1.1.0 // the errors of the command line, by kind
	github.com/tidwall/btree v1.8.2 // ordered records in memory; each change forks them in constant time
	go.etcd.io/bbolt v1.5.0 // records on disk
	go.yaml.in/yaml/v3 v3.0.6 // configuration
	golang.org/x/crypto v0.59.0 // cryptobyte: strict DER; scrypt: refused PINs
	golang.org/x/sys v0.50.0 // syncfs, flock, prctl
	golang.org/x/time v0.16.0 // rate: token buckets
	pgregory.net/rapid v1.3.0 // tests: random programs, shortened when one fails
	software.sslmate.com/src/go-pkcs12 v0.7.4 // client keys: the PKCS#12 files that KMS's instance SDKs read
)

require google.golang.org/protobuf v1.36.12

require (
	filippo.io/hpke v0.4.0 // indirect
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/labstack/gommon v0.5.0 // indirect
	github.com/mattn/go-colorable v0.1.15 // indirect
	github.com/mattn/go-isatty v0.0.22 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	github.com/thales-e-security/pool v0.0.2 // indirect
	github.com/valyala/bytebufferpool v1.0.0 // indirect
	github.com/valyala/fasttemplate v1.2.2 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/text v0.44.0 // indirect
	golang.org/x/tools v0.52.0 // indirect
)

tool google.golang.org/protobuf/cmd/protoc-gen-go
