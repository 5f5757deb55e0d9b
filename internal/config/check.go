package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kmsgate/kmsgate/internal/ca"
	"github.com/kmsgate/kmsgate/internal/ownership"
	"github.com/kmsgate/kmsgate/internal/servercert"
)

// Check checks the files and directories that a configuration from [Parse] names. Its error
// is [Mistakes] with everything that is wrong or missing. It changes nothing.
func (c *Config) Check() error {
	l := newLedger()
	l.checkDirectory("directory", c.Directory)
	for _, f := range c.writtenFiles() {
		dir := filepath.Dir(f[1])
		if f[1] == c.Admin.Socket { // the gateway creates the socket's directory
			l.checkPrivate(f[0], dir)
			dir = filepath.Dir(dir)
		}
		if f[1] != "" && dir != c.Directory {
			l.checkDirectory(f[0], dir)
		}
	}
	if c.Token.SoftHSM == "" {
		l.checkRegular("token.module", c.Token.Module)
		l.checkOwnership("token.module", c.Token.Module)
		if _, err := c.PIN(); err != nil {
			l.report(c.pinField(), "%v", err)
		}
		if c.Token.SoftHSMConf != "" {
			l.checkRegular("token.softhsm_conf", c.Token.SoftHSMConf)
		}
	}
	if c.TLS.Certificate != "" {
		l.checkKeyPair(c.TLS, time.Now())
	}
	return l.err()
}

// accessHint returns the advice for an error of opening a file: advice, unless the user may
// not open it.
func accessHint(err error, advice string) string {
	if errors.Is(err, fs.ErrPermission) {
		return "run as root or as the gateway's user"
	}
	return advice
}

// checkDirectory reports a path that is not a directory, and a directory in which users other
// than its owner and group can replace files.
func (l *ledger) checkDirectory(field, path string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		l.report(field, "%v (%s)", err, accessHint(err, "create the directory, or name another"))
	case !info.IsDir():
		l.report(field, "%q is not a directory (name a directory)", path)
	case info.Mode().Perm()&0o002 != 0:
		l.report(field, "the directory %q is writable by all users, who could replace its files "+
			"(run chmod o-w %[1]s)", path)
	}
}

// checkPrivate reports a directory that exists and that users other than its owner can enter.
func (l *ledger) checkPrivate(field, path string) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		l.report(field, "the directory %q is accessible to users other than its owner (run chmod 700 %[1]s, or name "+
			"a socket in a directory that does not exist yet)", path)
	}
}

// checkRegular reports a path that is not a regular file.
func (l *ledger) checkRegular(field, path string) {
	info, err := os.Stat(path)
	if err != nil {
		l.report(field, "%v (%s)", err, accessHint(err, "correct the path"))
	} else if !info.Mode().IsRegular() {
		l.report(field, "%q is not a regular file (correct the path)", path)
	}
}

// checkOwnership reports a file that another user can change or replace.
func (l *ledger) checkOwnership(field, path string) {
	var other *ownership.Error
	if errors.As(ownership.CheckFile(path), &other) {
		l.report(field, "%v", other)
	}
}

// checkKeyPair reports everything that makes clients refuse the operator's certificate now.
func (l *ledger) checkKeyPair(t TLS, now time.Time) {
	var faults servercert.Faults
	if _, err := servercert.Load(t.Certificate, t.Key, now); errors.As(err, &faults) {
		for _, f := range faults {
			l.report(f.Field, "%s", f.What)
		}
	}
}

// Warnings returns which certificates expire soon or have expired: an operator's within 30 days,
// that of the gateway's CA within a year. A file that cannot be used has none: Check or the start
// of the gateway reports it.
func (c *Config) Warnings() []servercert.Warning { return c.warnings(time.Now()) }

func (c *Config) warnings(now time.Time) []servercert.Warning {
	if c.TLS.Certificate == "" {
		authority, err := ca.Read(c.TLS.CAKeyFile)
		if err != nil {
			return nil
		}
		return servercert.CAWarnings(authority.NotAfter(), now)
	}
	certificate, err := servercert.Load(c.TLS.Certificate, c.TLS.Key, now)
	if err != nil {
		return nil
	}
	return servercert.OperatorWarnings(certificate.Leaf.NotAfter, now)
}
