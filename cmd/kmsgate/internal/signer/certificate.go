package signer

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/emmansun/gmsm/smx509"

	"github.com/kmsgate/kmsgate/hsm"
)

// A Request describes a certificate request or a self-signed certificate.
type Request struct {
	Subject string   // such as "CN=Release,O=Example,C=CN"
	Names   []string // DNS names, IP addresses, e-mail addresses and URIs
	Usages  []string // extended key usages: the keys of Usages
	CA      bool     // basic constraints: the key signs certificates
	PSS     bool     // RSA only: sign with RSA_PSS_SHA_256 instead of RSA_PKCS1_SHA_256
}

// Usages are the extended key usages that a Request can have (RFC 5280, 4.2.1.12).
var Usages = map[string]asn1.ObjectIdentifier{
	"server": {1, 3, 6, 1, 5, 5, 7, 3, 1}, "client": {1, 3, 6, 1, 5, 5, 7, 3, 2}, "code": {1, 3, 6, 1, 5, 5, 7, 3, 3},
	"email": {1, 3, 6, 1, 5, 5, 7, 3, 4}, "timestamp": {1, 3, 6, 1, 5, 5, 7, 3, 8},
}

// attributeTypes are the attributes that a subject can have (RFC 4514, section 3).
var attributeTypes = map[string]asn1.ObjectIdentifier{
	"CN": {2, 5, 4, 3}, "SERIALNUMBER": {2, 5, 4, 5}, "C": {2, 5, 4, 6}, "L": {2, 5, 4, 7}, "ST": {2, 5, 4, 8}, "O": {2, 5, 4, 10}, "OU": {2, 5, 4, 11},
}

// ParseSubject parses a name as RFC 4514 writes it, such as "CN=Release,O=Example,C=CN": the last
// part comes first in the certificate. A backslash before a comma makes it part of a value.
func ParseSubject(text string) (name pkix.Name, err error) {
	const comma = "\x00"
	for part := range strings.SplitSeq(strings.ReplaceAll(text, `\,`, comma), ",") {
		attribute, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		oid := attributeTypes[strings.ToUpper(strings.TrimSpace(attribute))]
		value = strings.TrimSpace(strings.ReplaceAll(value, comma, ","))
		if !ok || oid == nil || value == "" || oid.Equal(attributeTypes["C"]) && len(value) != 2 {
			return name, fmt.Errorf("subject %q: %q is not one of CN, O, OU, L, ST, C (two letters) and SERIALNUMBER with a value", text, part)
		}
		name.ExtraNames = append(name.ExtraNames, pkix.AttributeTypeAndValue{Type: oid, Value: value})
	}
	slices.Reverse(name.ExtraNames)
	return name, nil
}

// algorithm returns the signature algorithm of a request with a key.
func (r Request) algorithm(k Key) (smx509.SignatureAlgorithm, error) {
	isRSA := strings.HasPrefix(string(k.Spec()), "RSA")
	switch {
	case r.PSS && !isRSA:
		return 0, fmt.Errorf("a key of KeySpec %s does not sign with RSA_PSS_SHA_256", k.Spec())
	case k.Spec() == hsm.EC_P256:
		return smx509.ECDSAWithSHA256, nil
	case k.Spec() == hsm.EC_SM2:
		return smx509.SM2WithSM3, nil
	case k.Spec() == hsm.EC_P256K:
		return 0, errors.New("there are no certificates for keys of KeySpec EC_P256K")
	case r.PSS:
		return smx509.SHA256WithRSAPSS, nil
	}
	return smx509.SHA256WithRSA, nil
}

var (
	hostName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
	address  = regexp.MustCompile(`^[^\s@:]+@[^\s@:]+$`)
)

// sort parts the names into their kinds.
func (r Request) sort() (dns, emails []string, ips []net.IP, uris []*url.URL, err error) {
	for _, name := range r.Names {
		u, parseErr := url.Parse(name)
		switch {
		case net.ParseIP(name) != nil:
			ips = append(ips, net.ParseIP(name))
		case parseErr == nil && u.Scheme != "":
			uris = append(uris, u)
		case address.MatchString(name):
			emails = append(emails, name)
		case hostName.MatchString(name):
			dns = append(dns, name)
		default:
			return nil, nil, nil, nil, fmt.Errorf("name %q is not a DNS name, an IP address, an e-mail address or a URI", name)
		}
	}
	return dns, emails, ips, uris, nil
}

// extensions returns the extensions that x509 has no field for in a request.
func (r Request) extensions() (all []pkix.Extension, err error) {
	usage := asn1.BitString{Bytes: []byte{0x80}, BitLength: 1} // digitalSignature
	if r.CA {
		usage = asn1.BitString{Bytes: []byte{0x86}, BitLength: 7} // and keyCertSign, cRLSign
		all = append(all, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}})
	}
	value, err := asn1.Marshal(usage)
	all = append(all, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: value})
	if err != nil || len(r.Usages) == 0 {
		return all, err
	}
	var oids []asn1.ObjectIdentifier
	for _, name := range r.Usages {
		oids = append(oids, Usages[name])
	}
	value, err = asn1.Marshal(oids)
	return append(all, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: value}), err
}

// CSR returns a certificate request (PKCS#10) in PEM.
func (r Request) CSR(s crypto.Signer, k Key) ([]byte, error) {
	subject, err := ParseSubject(r.Subject)
	if err != nil {
		return nil, err
	}
	template := smx509.CertificateRequest{Subject: subject}
	algorithm, err := r.algorithm(k)
	if err != nil {
		return nil, err
	}
	template.SignatureAlgorithm = algorithm
	if template.DNSNames, template.EmailAddresses, template.IPAddresses, template.URIs, err = r.sort(); err != nil {
		return nil, err
	}
	if template.ExtraExtensions, err = r.extensions(); err != nil {
		return nil, err
	}
	der, err := smx509.CreateCertificateRequest(rand.Reader, &template, s)
	if err != nil {
		return nil, fmt.Errorf("making the certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// SelfSigned returns a certificate in PEM that the key signs itself. It is valid for some days from
// now on.
func (r Request) SelfSigned(s crypto.Signer, k Key, now time.Time, days int) ([]byte, error) {
	subject, err := ParseSubject(r.Subject)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now = now.UTC().Truncate(time.Second)
	template := smx509.Certificate{Subject: subject, SerialNumber: serial, NotBefore: now, NotAfter: now.AddDate(0, 0, days)}
	algorithm, err := r.algorithm(k)
	if err != nil {
		return nil, err
	}
	template.SignatureAlgorithm = algorithm
	keyId := sha256.Sum256(k.Public())
	template.SubjectKeyId = keyId[:20] // RFC 7093, 2: 160 bits
	if template.DNSNames, template.EmailAddresses, template.IPAddresses, template.URIs, err = r.sort(); err != nil {
		return nil, err
	}
	if template.ExtraExtensions, err = r.extensions(); err != nil {
		return nil, err
	}
	der, err := smx509.CreateCertificate(rand.Reader, &template, &template, s.Public(), s)
	if err != nil {
		return nil, fmt.Errorf("making the certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
