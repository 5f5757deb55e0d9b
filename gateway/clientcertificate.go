package gateway

import (
	"crypto/tls"

	"github.com/kmsgate/kmsgate/gateway/identity"
)

// Whether clients are asked for a certificate when they connect. A client key comes
// with one, and some SDKs show it. It does not say who asks: a request's signature does.
const (
	NoCertificates       = "none"     // nobody is asked; the default
	RequiredCertificates = "required" // nobody is let in without a client key's
)

// withClientCertificates asks for certificates as a listener has it. Who has none is
// not let as far as HTTP where one is required.
func (s *Server) withClientCertificates(config *tls.Config, how Listener) *tls.Config {
	config = config.Clone()
	if how.ClientCertificates == RequiredCertificates {
		config.ClientAuth = tls.RequireAnyClientCert
		config.VerifyConnection = s.checkClientCertificate
	}
	return config
}

// checkClientCertificate refuses a connection without the certificate of a client key
// that is valid now.
func (s *Server) checkClientCertificate(connection tls.ConnectionState) error {
	return identity.CheckCertificate(s.config.Store.Now(), connection, s.config.Now())
}
