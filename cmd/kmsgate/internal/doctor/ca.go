package doctor

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/kmsgate/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/internal/config"
)

// examineCA examines the gateway's CA. A running gateway does not need the CA's files before
// its next start.
func examineCA(c *config.Config) []Finding {
	if c.TLS.Certificate != "" {
		return nil
	}
	d := new(Diagnosis)
	a, err := ca.Read(c.TLS.CAKeyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.problem(ca.LostAdvice, "The CA's key %q is missing, and the gateway does not start without it.",
			c.TLS.CAKeyFile)
		return d.Findings
	case err != nil:
		d.problem("correct this; the gateway does not start without its CA", "The CA cannot be read: %v.", err)
		return d.Findings
	}
	if _, err := os.Stat(c.TLS.CAFile); errors.Is(err, fs.ErrNotExist) {
		d.note("do nothing; kmsgate writes the file again whenever it opens the instance, as at the gateway's next "+
			"start",
			"The CA's certificate %q, which is for clients, was missing.", c.TLS.CAFile)
	} else if err := a.CheckCertificateFile(c.TLS.CAFile); err != nil {
		d.problem("follow this advice; the gateway does not start until then", "%v.", err)
	}
	return d.Findings
}

// examineCertificates reports certificates that expire soon or have expired.
func examineCertificates(c *config.Config) []Finding {
	d := new(Diagnosis)
	for _, w := range c.Warnings() {
		report := d.note
		if w.Expired {
			report = d.problem
		}
		report(w.Do, "%s.", strings.ToUpper(w.What[:1])+w.What[1:])
	}
	return d.Findings
}
