package gateway

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmsgate/kmsgate/gateway/audit"
	"github.com/kmsgate/kmsgate/gateway/clock"
	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/identity"
	"github.com/kmsgate/kmsgate/gateway/journal"
	"github.com/kmsgate/kmsgate/gateway/keypair"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/gateway/limit"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/store"
)

// Config configures a Server. Store, Backend, Sealer and Audit are required, and the store
// must have its Instance.
type Config struct {
	Store   *store.Store
	Backend hsm.Backend
	Sealer  hsm.Sealer     // seals access-key secrets and client keys
	Random  hsm.Randomizer // nil disables GenerateRandom
	Audit   *audit.Log

	// Collectors are Prometheus collectors to register beside the gateway's.
	Collectors []prometheus.Collector

	// Details return sentences for /ready, each empty if there is nothing to say.
	Details []func() string

	// Inspector lists and examines the objects in Backend's token. Nil disables the
	// operations that need it.
	Inspector hsm.Inspector

	Quotas   limit.Quotas   // until SetQuotas replaces them
	LogLines limit.LogLines // limits the audit lines about refusals

	// MaxKeys and MaxAliases are the most keys and aliases that the instance can have. Zero
	// means DefaultMaxKeys and DefaultMaxAliases.
	MaxKeys    int
	MaxAliases int

	// MinVersionInterval is the shortest time between two versions of a key. Zero means
	// DefaultMinVersionInterval; a negative value means that there is no limit.
	MinVersionInterval time.Duration

	// GenerationTimeout is how long a local administrator waits for a new key pair. Zero means
	// DefaultGenerationTimeout. Network clients wait 25 s at most, because their connections do not last longer.
	GenerationTimeout time.Duration

	// Archiver makes the archives of CreateBackup. Nil disables CreateBackup.
	Archiver Archiver

	// CACertificate is the CA certificate that clients must trust, in PEM. GetKmsInstance
	// returns it.
	CACertificate string

	// SigningUser is the user whose policies apply to signatures at the local doors, unless the
	// request names another or asks as administrator. If it is empty, such a request must say.
	SigningUser string

	// EchoStringToSign adds the expected string to sign to the error for a signature that
	// does not match. It helps authors of clients. It also repeats the request to its
	// sender, so it is for development only.
	EchoStringToSign bool

	Now    func() time.Time     // nil means clock.Wall
	Seen   func() time.Duration // nil means clock.Seen
	Clock  *clock.Clock         // of Now and Seen; nil means one that continues from the Store's records
	Logger *slog.Logger         // nil means slog.Default()
}

// A Server serves one instance. Use [New].
type Server struct {
	// These do not change after New.
	config   Config         // with New's defaults
	instance store.Instance // the instance that the records belong to
	arns     kms.ARNs       // of that instance

	// Each of these guards its own state.
	clock          *clock.Clock
	callers        *identity.Registry
	journal        *journal.Journal
	pairs          *keypair.Pairs
	quotas         atomic.Pointer[limit.Quotas]
	buckets        limit.Buckets
	bodies         limit.Bodies  // of native requests
	knownBodies    *limit.Bodies // of RPC requests, before authentication
	strangerBodies *limit.Bodies // the same, from networks that are not known
	gate           *limit.Gate
	known          *limit.Known
	refusals       *limit.Refusals
	connections    *front.Process
	health         *healthCheck
	metrics        *metrics

	releases releases // of answers that were made with a key
}

// New returns a Server. It unseals the access keys, loads the nonces of requests that
// changed something, writes the audit lines that changes still lack, and deletes the
// records of keys whose deletion is due. If any of these fails, it returns an error. Run
// does the periodic work.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Backend == nil || cfg.Sealer == nil || cfg.Audit == nil {
		return nil, errors.New("gateway: Config lacks Store, Backend, Sealer or Audit")
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
	if cfg.GenerationTimeout == 0 {
		cfg.GenerationTimeout = DefaultGenerationTimeout
	}
	if cfg.Now == nil {
		cfg.Now = clock.Wall
	}
	if cfg.Seen == nil {
		cfg.Seen = clock.Seen
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.Backend = hsm.NewRoute(cfg.Backend, cfg.Logger)
	known, gate := limit.NewKnown(), limit.NewGate(min(runtime.NumCPU(), runtime.GOMAXPROCS(0)))
	s := &Server{
		config:         cfg,
		knownBodies:    limit.KnownBodies(),
		strangerBodies: limit.StrangerBodies(),
		gate:           gate,
		known:          known,
		refusals:       limit.NewRefusals(cfg.LogLines),
		connections:    front.NewProcess(known, gate),
		health:         newHealthCheck(cfg.Backend.Health),
	}
	s.connections.Logger = cfg.Logger
	if err := s.SetQuotas(cfg.Quotas); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(s)
	if err := s.resume(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// resume continues where the last process stopped.
func (s *Server) resume(ctx context.Context) error {
	records := s.config.Store.Now()
	if s.instance = records.Instance(); s.instance == (store.Instance{}) {
		return errors.New("gateway: the store has no Instance")
	}
	s.arns = kms.ARNs{RegionId: s.instance.RegionId, AccountId: s.instance.AccountId}
	var err error
	if s.clock = s.config.Clock; s.clock == nil {
		s.clock = clock.New(s.config.Now, s.config.Seen, records.Clock().Last, records.Clock().Problem)
	}
	s.callers, err = identity.Open(ctx, records, identity.Config{ARNs: s.arns, Sealer: s.config.Sealer,
		Logger: s.config.Logger, Now: s.config.Now, Seen: s.config.Seen, MaxNonces: maxNonces()})
	if err != nil {
		return err
	}
	if s.journal, err = journal.Open(s.config.Store, s.config.Audit, s.config.Logger); err != nil {
		return err
	}
	s.pairs = keypair.New(keypair.Config{Records: s.config.Store, Backend: s.config.Backend, Journal: s.journal,
		Audit: s.config.Audit, Now: s.config.Now, ReadClock: s.clock.Read, Logger: s.config.Logger})
	return s.pairs.DeleteDueKeys()
}

// maxNonces returns how many nonces may be remembered. They take at most a quarter of the memory: a
// nonce takes up to 24 bytes, and the garbage collector may let the heap double.
func maxNonces() int { return int(limit.Memory() / 8 / 24) }

// SetQuotas replaces the general quotas for all requests that are charged from now on. Quotas of
// single users stay. If q is not valid, it returns an error and changes nothing. The caller must not
// change q afterwards.
func (s *Server) SetQuotas(q limit.Quotas) error {
	if err := q.Check(); err != nil {
		return err
	}
	s.quotas.Store(&q)
	return nil
}

// AccessKeySecret returns the secret of an access key. It is for `kmsgate dev`, which shows
// the same credentials at every start.
func (s *Server) AccessKeySecret(a store.AccessKey) (string, error) { return s.callers.Secret(a) }
