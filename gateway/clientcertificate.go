package gateway

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/store"
)

// Whether clients are asked for a certificate when they connect. A client key comes
// with one, and some SDKs show it. It does not say who asks: a request's signature does.
const (
	NoCertificates       = "none"     // nobody is asked; the default
	RequiredCertificates = "required" // nobody is let in without a client key's
)

// isValid reports whether a certificate is that of a client key which is valid now. A
// certificate of ours signs itself, so there is nothing to verify it with: it has to be
// the recorded one, to the byte.
func isValid(records *store.Records, certificate *x509.Certificate, now time.Time) bool {
	key, err := records.ClientKeys().Get(certificate.Subject.CommonName)
	return err == nil && bytes.Equal(certificate.Raw, key.Certificate) && isInForce(key, now)
}

func isInForce(key store.ClientKey, now time.Time) bool {
	return !now.Before(key.NotBefore) && !now.After(key.NotAfter)
}

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

// checkConnection refuses requests of connections that a listener would not take
// any more: a client key can be deleted while its program is connected.
func (s *Server) checkConnection(connection *tls.ConnectionState, listener *Listener) error {
	if connection == nil || listener.ClientCertificates != RequiredCertificates {
		return nil
	}
	return s.checkClientCertificate(*connection)
}

// checkClientCertificate refuses a connection without the certificate of a client key
// that is valid now.
func (s *Server) checkClientCertificate(connection tls.ConnectionState) error {
	if len(connection.PeerCertificates) == 0 || !isValid(s.Store.Now(), connection.PeerCertificates[0], s.Now()) {
		return kms.ErrNoPermission.Because("This endpoint takes connections with the certificate of a client key only, one that is valid now.")
	}
	return nil
}
