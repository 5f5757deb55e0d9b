package gateway

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/journal"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// Config says what a Server stands on. Store, Backend, Sealer and Audit are
// needed; the store must know its Instance.
type Config struct {
	Store   *store.Store
	Backend hsm.Backend
	Sealer  hsm.Sealer     // of access-key secrets and client keys
	Random  hsm.Randomizer // nil means that there is no GenerateRandom
	Audit   *audit.Log

	// Collectors are told to Prometheus besides the gateway's own.
	Collectors []prometheus.Collector

	// Inspector tells what is in the token that Backend's keys are in. Nil means
	// that nobody does.
	Inspector hsm.Inspector

	Quotas   limit.Quotas
	LogLines limit.LogLines // of callers who cannot authenticate

	// MaxKeys and MaxAliases bound how many of them there can be. Zero means
	// DefaultMaxKeys and DefaultMaxAliases.
	MaxKeys    int
	MaxAliases int

	// MinVersionInterval is how long a key has to wait for its next version.
	// Zero means DefaultMinVersionInterval; less than zero that it has not to wait.
	MinVersionInterval time.Duration

	// Archiver makes the archives of CreateBackup. Nil means that there are none.
	Archiver Archiver

	// CACertificate is what GetKmsInstance gives clients to trust, PEM.
	CACertificate string

	// EchoStringToSign tells a client whose signature does not match what it
	// should have signed. It helps whoever writes a client and repeats the
	// request to whoever sent it, so it is for development.
	EchoStringToSign bool

	Now    func() time.Time // nil means time.Now
	Logger *slog.Logger     // nil means slog.Default()
}

// A Server is the service. Use [New].
type Server struct {
	config   Config         // as New completed it; like the next two, it does not change
	instance store.Instance // whose records these are
	arns     kms.ARNs       // of that instance

	// The rooms. Each guards its own state.
	callers         *identity.Registry
	journal         *journal.Journal
	pairs           *keypair.Pairs
	buckets         limit.Buckets
	bodies          limit.Bodies
	unauthenticated *limit.Unauthenticated
	connections     *front.Process
	metrics         *metrics
}

// New makes a Server: it unseals the access keys, remembers the nonces that
// changed something, writes the audit lines that changes lack, and deletes the
// records of keys that fell due. It reports an error rather than start with less
// than everything. What is to be done from time to time, Run does.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Backend == nil || cfg.Sealer == nil || cfg.Audit == nil {
		return nil, errors.New("gateway: Config needs Store, Backend, Sealer and Audit")
	}
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = DefaultMaxKeys
	}
	if cfg.MaxAliases == 0 {
		cfg.MaxAliases = DefaultMaxAliases
	}
	if cfg.MinVersionInterval == 0 {
		cfg.MinVersionInterval = DefaultMinVersionInterval
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if err := cfg.Quotas.Check(); err != nil {
		return nil, err
	}
	cfg.Backend = hsm.Verified(cfg.Backend, cfg.Logger)
	s := &Server{config: cfg, unauthenticated: limit.NewUnauthenticated(cfg.LogLines), connections: front.NewProcess()}
	s.metrics = newMetrics(s)
	if err := s.resume(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// resume takes up what the last process left.
func (s *Server) resume(ctx context.Context) error {
	records := s.config.Store.Now()
	if s.instance = records.Instance(); s.instance == (store.Instance{}) {
		return errors.New("gateway: the store does not know its Instance")
	}
	s.arns = kms.ARNs{RegionId: s.instance.RegionId, AccountId: s.instance.AccountId}
	var err error
	if s.callers, err = identity.Open(ctx, records, s.arns, s.config.Sealer, s.config.Now(), s.config.Logger); err != nil {
		return err
	}
	if s.journal, err = journal.Open(s.config.Store, s.config.Audit, s.config.Logger); err != nil {
		return err
	}
	s.pairs = keypair.New(keypair.Config{Records: s.config.Store, Backend: s.config.Backend, Journal: s.journal, Audit: s.config.Audit, Now: s.config.Now, Logger: s.config.Logger})
	return s.pairs.DeleteDueKeys()
}

// AccessKeySecret returns the secret of an access key. It is for `kmsgate dev`,
// which tells its user the same credentials at every start.
func (s *Server) AccessKeySecret(a store.AccessKey) (string, error) { return s.callers.Secret(a) }
