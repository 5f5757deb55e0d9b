package gateway

import (
	"crypto/tls"

	"github.com/kmsgate/kmsgate/gateway/identity"
)

// Values of [Listener].ClientCertificates. A client key comes with a certificate, and some
// SDKs present it in the TLS handshake. The signature of a request identifies the caller;
// the certificate does not.
const (
	NoCertificates       = "none"     // the listener asks for no certificate; the default
	RequiredCertificates = "required" // the listener requires the certificate of a client key
)

// withClientCertificates returns config with the listener's setting for client
// certificates. If the listener requires one, the TLS handshake fails without it.
func (s *Server) withClientCertificates(config *tls.Config, l Listener) *tls.Config {
	config = config.Clone()
	if l.ClientCertificates == RequiredCertificates {
		config.ClientAuth = tls.RequireAnyClientCert
		config.VerifyConnection = s.checkClientCertificate
	}
	return config
}

// checkClientCertificate refuses a connection unless it has the certificate of a client
// key that is valid now.
func (s *Server) checkClientCertificate(connection tls.ConnectionState) error {
	return identity.CheckCertificate(s.config.Store.Now(), connection, s.config.Now())
}
