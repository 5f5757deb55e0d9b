package appliance

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/ca"
)

// openCA opens the CA, unless the operator has a certificate of their own. It makes one
// only while there is no user yet: later there are clients that trust the one that was.
func (a *Appliance) openCA() (err error) {
	t := a.Config.TLS
	if t.Certificate != "" {
		return nil
	}
	_, err = os.Stat(t.CAKeyFile)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case a.options.NewCA && !missing:
		return fmt.Errorf("there is a CA in %s: to have another one, move it away", t.CAKeyFile)
	case missing && (a.options.NewCA || a.options.Provision && a.Store.Now().Users().Len() == 0):
		a.ca, err = ca.Make(t.CAFile, t.CAKeyFile)
	case missing:
		return fmt.Errorf("the CA's key %s is gone, and clients trust that CA and no other. %s", t.CAKeyFile, ca.LostAdvice)
	default:
		a.ca, err = ca.Open(t.CAFile, t.CAKeyFile)
	}
	return err
}

// ServerTLS returns how listeners at these addresses speak TLS: with the operator's own
// certificate, or with one that the CA issues now.
func (a *Appliance) ServerTLS(addresses ...net.Addr) (*tls.Config, error) {
	certificate, err := a.serverCertificate(addresses)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12, // what the real service's instances speak
		NextProtos:   []string{"http/1.1"},
		Certificates: []tls.Certificate{certificate},
	}, nil
}

func (a *Appliance) serverCertificate(addresses []net.Addr) (tls.Certificate, error) {
	t := a.Config.TLS
	if a.ca == nil {
		certificate, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
		if err != nil {
			return certificate, fmt.Errorf("the certificate %s: %w", t.Certificate, err)
		}
		return certificate, nil
	}
	id := a.Config.Instance.ID
	names := []string{"localhost", "127.0.0.1", "::1", id, id + ".cryptoservice.kms.aliyuncs.com"}
	if hostname, err := os.Hostname(); err == nil { // what a container is called by others
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
