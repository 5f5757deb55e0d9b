package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/kmsgate/kmsgate/gateway/front"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// Values of [Listener].Gateway, the kind of KMS gateway that a listener acts as. The
// quotas of that kind apply to the listener's calls.
const (
	SharedGateway    = "shared"
	DedicatedGateway = "dedicated"
)

// A Listener configures an endpoint. The zero value is a dedicated gateway with the
// defaults.
type Listener struct {
	Gateway      string // SharedGateway or DedicatedGateway; empty means the latter
	BusinessOnly bool   // serve only AsymmetricSign, AsymmetricVerify, GetPublicKey and GenerateRandom

	// ClientCertificates states whether a connection must present the certificate of a
	// client key: NoCertificates or RequiredCertificates. Empty means NoCertificates.
	ClientCertificates string

	// MaxConnections limits the open connections in total, and MaxPerSource those of one
	// IPv4 address or one IPv6 /64. Zero means 1,024 and 128. All listeners together use at
	// most half of the files that the process may open. A quarter of the connections is kept for
	// sources from which a caller authenticated within ten minutes.
	MaxConnections int
	MaxPerSource   int

	// HeaderTime limits how long a client may take for a request's header, ReadTime for the
	// whole request, and IdleTime between two requests. Zero means 10 s, 30 s and 2 minutes.
	// IdleTime is at most 5 s until a caller has authenticated on the connection.
	HeaderTime, ReadTime, IdleTime time.Duration
}

func (l Listener) withDefaults() Listener {
	if l.MaxConnections == 0 {
		l.MaxConnections = 1024
	}
	if l.MaxPerSource == 0 {
		l.MaxPerSource = 128 // it takes eight sources to use up all connections, not one
	}
	l.HeaderTime = cmp.Or(l.HeaderTime, headerTime)
	l.ReadTime = cmp.Or(l.ReadTime, readTime)
	l.IdleTime = cmp.Or(l.IdleTime, idleTime)
	return l
}

// charges returns the quotas that a call of an operation is charged to. The zero Operation means
// one that does not exist, or that the listener does not offer.
func (l *Listener) charges(o kms.Operation) []kms.Quota {
	switch {
	case l.Gateway == SharedGateway:
		return []kms.Quota{cmp.Or(o.Quota, kms.QuotaKeyRead)}
	case o.Business:
		return dedicatedBusiness
	}
	return dedicatedOther
}

// These are made once: every call asks for one of them.
var (
	dedicatedBusiness = []kms.Quota{kms.QuotaDedicatedUser, kms.QuotaDedicatedInstance}
	dedicatedOther    = []kms.Quota{kms.QuotaDedicatedOther}
)

const (
	headerTime = 10 * time.Second
	readTime   = 30 * time.Second
	writeTime  = 60 * time.Second
	idleTime   = 2 * time.Minute
)

// maxHeader is the most bytes of a request's header; net/http refuses more, without JSON. The
// SDKs send all parameters in the query. The largest documented request is a CreateKey with the
// longest Description, 20 tags and the longest Policy. If every character is three bytes of
// UTF-8, each escaped as %XX, these are 72, 68 and 96 KiB. Other parameters take less than 4 KiB.
// 16 KiB are left for the fields, which [front.Serve] bounds.
const maxHeader = 256 << 10

// Serve serves the RPC API and the native API over TLS on l until ctx is done. Then it lets
// the requests in flight finish. A client that speaks plain HTTP, as an old SDK does by
// default, receives an error that says so.
func (s *Server) Serve(ctx context.Context, l net.Listener, config *tls.Config, listener Listener) error {
	listener = listener.withDefaults()
	server := &http.Server{
		Handler:           s.Handler(listener),
		ReadHeaderTimeout: listener.HeaderTime,
		ReadTimeout:       listener.ReadTime,
		WriteTimeout:      writeTime,
		IdleTimeout:       listener.IdleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
	}
	limits := front.Limits{
		Connections:   listener.MaxConnections,
		PerSource:     listener.MaxPerSource,
		HandshakeTime: listener.HeaderTime,
	}
	config = s.withClientCertificates(config, listener)
	return front.Serve(ctx, server, front.Listen(l, config, limits, s.connections))
}
