package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmsgate/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/internal/servercert"
)

// openCA opens the CA, unless the configuration names a certificate. With Provision it
// creates a CA only while the gateway has no user: later, clients trust the earlier CA.
func (a *Appliance) openCA() (err error) {
	t := a.Config.TLS
	if t.Certificate != "" {
		return nil
	}
	_, err = os.Stat(t.CAKeyFile)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case a.options.NewCA && !missing:
		return fmt.Errorf("the CA already exists in %q (to create another CA, move its key and its certificate %q "+
			"away)",
			t.CAKeyFile, t.CAFile)
	case missing && (a.options.NewCA || a.options.Provision && a.Store.Now().Users().Len() == 0):
		a.ca, err = ca.Create(t.CAFile, t.CAKeyFile)
	case missing:
		return fmt.Errorf("the CA's key %q is missing, and clients trust no other CA (%s)", t.CAKeyFile, ca.LostAdvice)
	default:
		a.ca, err = ca.Open(t.CAFile, t.CAKeyFile)
	}
	return err
}

// openCertificates prepares the listeners' certificate, which ServerTLS makes. The CA must be open.
func openCertificates(a *Appliance) {
	t := a.Config.TLS
	a.certificates = servercert.New(servercert.Config{
		CA: a.ca, CertificateFile: t.Certificate, KeyFile: t.Key, Logger: a.options.Logger,
		Believed: func() bool { return a.clock == nil || a.clock.Problem() == "" },
	})
}

// ServerTLS returns the TLS configuration of listeners at these addresses. Its certificate is
// the one that the configuration names, or else one that the CA issues now. RunCertificates and
// ReloadCertificate replace it.
func (a *Appliance) ServerTLS(addresses ...net.Addr) (*tls.Config, error) {
	if err := a.certificates.Start(serverNames(a, addresses)); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12, // as the real service's instances
		NextProtos:     []string{"http/1.1"},
		GetCertificate: a.certificates.GetCertificate,
	}, nil
}

// RunCertificates keeps the listeners' certificate current until ctx is done. Call ServerTLS
// first. See [servercert.Certificates.Run].
func (a *Appliance) RunCertificates(ctx context.Context) { a.certificates.Run(ctx) }

// ReloadCertificate takes the certificate and the key that the configuration names if they have
// changed, or has the CA renew a certificate that is due, and logs the result. It keeps the
// certificate in use if the other one would not serve clients. Before ServerTLS it does nothing.
func (a *Appliance) ReloadCertificate() { a.certificates.Reload() }

// serverNames returns the DNS names and IP addresses of certificates that the CA issues.
func serverNames(a *Appliance, addresses []net.Addr) []string {
	id := a.Config.Instance.ID
	names := []string{"localhost", "127.0.0.1", "::1", id, id + ".cryptoservice.kms.aliyuncs.com"}
	if hostname, err := os.Hostname(); err == nil { // other containers use this name
		names = append(names, hostname)
	}
	for _, address := range addresses {
		if tcp, ok := address.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() {
			names = append(names, tcp.IP.String())
		}
	}
	names = append(names, a.Config.TLS.Names...)
	slices.Sort(names)
	return slices.Compact(names)
}

// certificateCollectors returns the metrics of the server's certificate and of the CA's.
func certificateCollectors(a *Appliance) []prometheus.Collector {
	expiry := func(certificate string, end func() time.Time) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "kmsgate_certificate_expiry_seconds",
			Help:        "When a certificate expires, in seconds since 1970: the server's, and that of the gateway's CA.",
			ConstLabels: prometheus.Labels{"certificate": certificate},
		}, func() float64 { return float64(max(0, end().Unix())) }) // there is none before ServerTLS
	}
	all := []prometheus.Collector{expiry("server", a.certificates.Expiry)}
	if a.ca != nil {
		all = append(all, expiry("ca", a.ca.NotAfter))
	}
	return all
}
