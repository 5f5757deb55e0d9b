package config

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Check names what the machine lacks for a configuration that [Parse] gave: all
// of it at once, as [Mistakes]. It changes nothing.
func (c *Config) Check() error {
	l := newLedger()
	l.directory("directory", c.Directory)
	for _, f := range c.written() {
		dir := filepath.Dir(f[1])
		if f[1] == c.Admin.Socket { // its directory is the gateway's own
			l.private(f[0], dir)
			dir = filepath.Dir(dir)
		}
		if f[1] != "" && dir != c.Directory {
			l.directory(f[0], dir)
		}
	}
	if c.Token.SoftHSM == "" {
		l.regular("token.module", c.Token.Module)
		if _, err := c.PIN(); err != nil {
			l.wrong(c.pinField(), "%v", err)
		}
		if c.Token.SoftHSMConf != "" {
			l.regular("token.softhsm_conf", c.Token.SoftHSMConf)
		}
	}
	if c.TLS.Certificate != "" {
		l.keyPair(c.TLS, time.Now())
	}
	return l.err()
}

// directory asks for a directory in which nobody but its owner and group can
// exchange the files.
func (l *ledger) directory(field, path string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		l.wrong(field, "%v: make the directory, or name another", err)
	case !info.IsDir():
		l.wrong(field, "%s is not a directory: name another", path)
	case info.Mode().Perm()&0o002 != 0:
		l.wrong(field, "the directory %s is writable by everyone, who could exchange the files in it: chmod o-w %[1]s", path)
	}
}

// private asks that a directory, if it is there, is its owner's alone.
func (l *ledger) private(field, path string) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		l.wrong(field, "the directory %s can be entered by others than its owner: chmod 700 %[1]s, or name a socket in one that is not there yet", path)
	}
}

func (l *ledger) regular(field, path string) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("is not a regular file")}
	}
	if err != nil {
		l.wrong(field, "%v: give the right path", err)
	}
}

// keyPair asks for a certificate that is valid now and its private key.
func (l *ledger) keyPair(t TLS, now time.Time) {
	chain, err := os.ReadFile(t.Certificate)
	if err != nil {
		l.wrong("tls.certificate", "%v: give the right path, and let kmsgate's user read it", err)
	}
	key, err := os.ReadFile(t.Key)
	if err != nil {
		l.wrong("tls.key", "%v: give the right path, and let kmsgate's user read it", err)
	}
	if chain == nil || key == nil {
		return
	}
	pair, err := tls.X509KeyPair(chain, key)
	switch {
	case err != nil:
		l.wrong("tls.key", "it and tls.certificate have to be a private key and its certificate chain in PEM, the server's own first: %v", err)
	case now.After(pair.Leaf.NotAfter):
		l.wrong("tls.certificate", "it expired at %s: renew it", pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(pair.Leaf.NotBefore):
		l.wrong("tls.certificate", "it is not valid before %s: wait, or set this machine's clock", pair.Leaf.NotBefore.UTC().Format(time.RFC3339))
	}
}
