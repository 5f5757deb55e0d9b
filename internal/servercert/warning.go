package servercert

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// How long before its expiry a certificate is reported.
const (
	serverNotice = 30 * 24 * time.Hour
	caNotice     = 365 * 24 * time.Hour // every client needs the next CA's certificate before then
)

// A Warning says that a certificate expires soon, or has expired.
type Warning struct {
	What    string // lower case, without a full stop
	Do      string // advice
	Expired bool
}

// String returns the warning with its advice.
func (w Warning) String() string { return fmt.Sprintf("%s (%s)", w.What, w.Do) }

// OperatorWarnings returns a warning if the operator's certificate expires within 30 days, or
// has expired.
func OperatorWarnings(expiry, now time.Time) []Warning {
	return warnings("the server's certificate", expiry, now, serverNotice,
		"replace it and its key with a certificate that expires later, which the gateway takes without a restart")
}

// CAWarnings returns a warning if the CA's certificate expires within a year, or has expired.
func CAWarnings(expiry, now time.Time) []Warning {
	return warnings("the CA's certificate", expiry, now, caNotice,
		"stop the gateway, move the files of tls.ca_file and tls.ca_key_file away, create another CA with kmsgate init "+
			"--new-ca, and give its certificate to every client")
}

// issuedWarnings returns a warning if a certificate was not renewed although the CA can renew it.
func issuedWarnings(expiry, caExpiry, now time.Time) []Warning {
	if !expiry.Before(caExpiry) {
		return nil // it expires with the CA, which has its own warning
	}
	return warnings("the server's certificate", expiry, now, serverNotice,
		"find out from the log why the gateway's CA has not renewed it")
}

func warnings(name string, expiry, now time.Time, notice time.Duration, do string) []Warning {
	switch {
	case now.After(expiry):
		return []Warning{{fmt.Sprintf("%s expired at %s, so clients refuse the gateway", name, inUTC(expiry)), do, true}}
	case now.Add(notice).After(expiry):
		return []Warning{{fmt.Sprintf("%s expires at %s; clients then refuse the gateway", name, inUTC(expiry)), do, false}}
	}
	return nil
}

// Warnings returns what expires soon or has expired: the certificate in use within 30 days, the
// CA's within a year. Before Start there are none.
func (c *Certificates) Warnings() []Warning {
	expiry, now := c.Expiry(), c.now()
	switch {
	case expiry.IsZero():
		return nil
	case c.config.CA == nil:
		return OperatorWarnings(expiry, now)
	}
	caExpiry := c.config.CA.NotAfter()
	return append(CAWarnings(caExpiry, now), issuedWarnings(expiry, caExpiry, now)...)
}

// Detail returns what an operator has to know about the certificate, or nothing: the warnings,
// and why a certificate in the operator's files is not in use. It does not wait for a disk.
func (c *Certificates) Detail() string {
	var all []string
	if refused := c.refused.Load(); refused != nil {
		all = append(all, fmt.Sprintf("%s: %v", c.refusalText(), refused.err))
	}
	for _, w := range c.Warnings() {
		all = append(all, w.String())
	}
	return strings.Join(all, "; ")
}

// warn logs the warnings, at most once a day of time that passed. The caller must hold looking.
func (c *Certificates) warn() {
	all := c.Warnings()
	if len(all) == 0 || !c.warned.IsZero() && time.Since(c.warned) < warnEvery {
		return
	}
	c.warned = time.Now()
	for _, w := range all {
		level := slog.LevelWarn
		if w.Expired {
			level = slog.LevelError
		}
		c.config.Logger.Log(context.Background(), level, w.String())
	}
}
