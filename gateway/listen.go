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

// The kinds of gateway that a listener can be, whose quotas hold there.
const (
	SharedGateway    = "shared"
	DedicatedGateway = "dedicated"
)

// A Listener says how an endpoint serves. The zero value is a dedicated gateway
// with the defaults.
type Listener struct {
	Gateway      string // SharedGateway or DedicatedGateway; empty means the latter
	BusinessOnly bool   // serves AsymmetricSign, AsymmetricVerify, GetPublicKey and GenerateRandom only

	// ClientCertificates says whether connections have to show a client key's
	// certificate: NoCertificates or RequiredCertificates. Empty means the former.
	ClientCertificates string

	// MaxConnections and MaxPerSource bound the connections that are open, in all
	// and for one address or, with IPv6, one /64. Zero means 1,024 and 128. All
	// listeners together have never more than half of the files that the process
	// may open.
	MaxConnections int
	MaxPerSource   int

	// HeaderTime, ReadTime and IdleTime bound how long a client may take for a
	// request's header, for all of it, and between two. Zero means 10 s, 30 s and
	// 2 minutes.
	HeaderTime, ReadTime, IdleTime time.Duration
}

func (l Listener) withDefaults() Listener {
	if l.MaxConnections == 0 {
		l.MaxConnections = 1024
	}
	if l.MaxPerSource == 0 {
		l.MaxPerSource = 128 // eight sources take all connections, not one
	}
	l.HeaderTime, l.ReadTime, l.IdleTime = cmp.Or(l.HeaderTime, headerTime), cmp.Or(l.ReadTime, readTime), cmp.Or(l.IdleTime, idleTime)
	return l
}

// charges returns the quotas that an operation is charged to.
func (l *Listener) charges(o kms.Operation) []kms.Quota {
	switch {
	case l.Gateway == SharedGateway:
		return []kms.Quota{o.Quota}
	case o.Business:
		return []kms.Quota{kms.QuotaDedicatedUser, kms.QuotaDedicatedInstance}
	}
	return nil
}

const (
	headerTime = 10 * time.Second
	readTime   = 30 * time.Second
	writeTime  = 60 * time.Second
	idleTime   = 2 * time.Minute
	maxHeader  = 320 << 10 // bytes, a query of 256 KiB included; past it there is no answer in JSON
)

// Serve serves the RPC API and the native API on l over TLS until ctx is done, and then lets the
// requests in flight end. Clients that speak plain HTTP are told so: it is an
// old SDK's default.
func (s *Server) Serve(ctx context.Context, l net.Listener, config *tls.Config, how Listener) error {
	how = how.withDefaults()
	server := &http.Server{
		Handler:           s.Handler(how),
		ReadHeaderTimeout: how.HeaderTime,
		ReadTimeout:       how.ReadTime,
		WriteTimeout:      writeTime,
		IdleTimeout:       how.IdleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
	}
	return front.Serve(ctx, server, front.Listen(l, s.withClientCertificates(config, how), front.Limits{Connections: how.MaxConnections, PerSource: how.MaxPerSource, HandshakeTime: how.HeaderTime}, s.connections))
}
