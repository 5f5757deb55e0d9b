package appliance

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"

	"github.com/kmsgate/kmsgate/internal/ca"
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

// ServerTLS returns the TLS configuration of listeners at these addresses. Its certificate is
// the one that the configuration names, or else one that the CA issues now.
func (a *Appliance) ServerTLS(addresses ...net.Addr) (*tls.Config, error) {
	certificate, err := a.serverCertificate(addresses)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12, // as the real service's instances
		NextProtos:   []string{"http/1.1"},
		Certificates: []tls.Certificate{certificate},
	}, nil
}

func (a *Appliance) serverCertificate(addresses []net.Addr) (tls.Certificate, error) {
	t := a.Config.TLS
	if a.ca == nil {
		certificate, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
		if err != nil {
			return certificate, fmt.Errorf("loading the certificate %q with the key %q: %w", t.Certificate, t.Key, err)
		}
		return certificate, nil
	}
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
	names = append(names, t.Names...)
	slices.Sort(names)
	return a.ca.Issue(slices.Compact(names))
}
