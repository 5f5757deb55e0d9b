package serve

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
)

// about returns attributes for the log that say what is served, and where.
func (l *Listeners) about(a *appliance.Appliance) []any {
	var addresses []string
	for _, address := range l.Addresses() {
		addresses = append(addresses, address.String())
	}
	all := []any{
		"instance", a.Config.Instance.ID, "token", a.Device(),
		"listeners", addresses, "admin", a.Config.Admin.Socket,
	}
	if l.metrics != nil {
		all = append(all, "metrics", l.metrics.Addr().String())
	}
	return append(all, "audit_line", a.AuditLine())
}

// certificate returns attributes for the log that say which certificate new connections get, and
// when it expires.
func certificate(c config.TLS, served *tls.Config) []any {
	leaf, err := servedLeaf(served)
	if err != nil {
		return []any{"certificate_err", err}
	}
	subject := "issued by the gateway's CA"
	if c.Certificate != "" {
		subject = leaf.Subject.String()
	}
	return []any{"certificate", subject, "certificate_expires", leaf.NotAfter.UTC().Format(time.RFC3339)}
}

// servedLeaf returns the server's certificate that a client without a server name gets.
func servedLeaf(c *tls.Config) (*x509.Certificate, error) {
	served, err := c.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(served.Certificate[0])
}
