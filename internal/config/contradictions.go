package config

import (
	"fmt"
	"strings"

	"github.com/kmsgate/kmsgate/internal/unixsocket"
)

// An optionalDefault is a default that another field can exclude.
type optionalDefault struct {
	field string
	value *string
}

// dropDefaults empties fields with a default that another field excludes. An operator who
// sets the token's serial number, for example, need not empty the label.
func (l *ledger) dropDefaults(c *Config) {
	label := optionalDefault{"token.label", &c.Token.Label}
	pinFile := optionalDefault{"token.pin_file", &c.Token.PINFile}
	userType := optionalDefault{"token.user_type", &c.Token.UserType}
	caFile := optionalDefault{"tls.ca_file", &c.TLS.CAFile}
	caKeyFile := optionalDefault{"tls.ca_key_file", &c.TLS.CAKeyFile}
	for _, rule := range []struct {
		value    string
		excludes []optionalDefault
	}{
		{c.Token.Serial, []optionalDefault{label}},
		{c.Token.PINEnv, []optionalDefault{pinFile}},
		{c.Token.SoftHSM, []optionalDefault{label, pinFile, userType}},
		{c.TLS.Certificate + c.TLS.Key, []optionalDefault{caFile, caKeyFile}},
	} {
		for _, d := range rule.excludes {
			if _, set := l.lines[d.field]; rule.value != "" && !set {
				*d.value = ""
			}
		}
	}
}

// checkContradictions reports fields that exclude each other.
func (l *ledger) checkContradictions(c *Config) {
	if c.Token.SoftHSM != "" {
		l.checkSoftHSM(c.Token)
	} else {
		l.checkModule(c.Token)
	}
	l.checkCertificate(c.TLS)
	l.checkAddresses(c)
	l.checkFiles(c)
	l.checkAudit(c.Audit)
	if err := unixsocket.CheckPath(c.Admin.Socket); err != nil {
		l.report("admin.socket", "%v", err)
	}
}

func (l *ledger) checkSoftHSM(t Token) {
	for _, f := range []struct {
		field string
		set   bool
	}{
		{"token.module", t.Module != ""},
		{"token.label", t.Label != ""},
		{"token.serial", t.Serial != ""},
		{"token.pin_file", t.PINFile != ""},
		{"token.pin_env", t.PINEnv != ""},
		{"token.user_type", t.UserType != ""},
		{"token.sessions", t.Sessions != 0},
		{"token.softhsm_conf", t.SoftHSMConf != ""},
	} {
		if f.set {
			l.report(f.field, "cannot be combined with token.softhsm, whose token kmsgate manages itself: "+
				"remove one of them")
		}
	}
}

func (l *ledger) checkModule(t Token) {
	if t.Module == "" {
		l.report("token.module", "is missing: it must be the path of a PKCS#11 module, such as "+
			"/usr/lib/softhsm/libsofthsm2.so (for trials, set token.softhsm instead)")
	}
	l.checkExactlyOne("token.label", t.Label, "token.serial", t.Serial)
	l.checkExactlyOne("token.pin_file", t.PINFile, "token.pin_env", t.PINEnv)
}

func (l *ledger) checkExactlyOne(first, value, second, other string) {
	switch {
	case value == "" && other == "":
		l.report(first, "is missing: set it or %s", second)
	case value != "" && other != "":
		l.report(second, "cannot be combined with %s: remove one of them", first)
	}
}

func (l *ledger) checkCertificate(t TLS) {
	ca := [][2]string{{"tls.ca_file", t.CAFile}, {"tls.ca_key_file", t.CAKeyFile}}
	if t.Certificate == "" && t.Key == "" {
		for _, f := range ca {
			if f[1] == "" {
				l.report(f[0], "is missing: it must be a path (to use another certificate, set tls.certificate and "+
					"tls.key instead)")
			}
		}
		return
	}
	if t.Certificate == "" {
		l.report("tls.certificate", "is missing: set it to the certificate of tls.key, or set neither")
	}
	if t.Key == "" {
		l.report("tls.key", "is missing: set it to the private key of tls.certificate, or set neither")
	}
	for _, f := range append(ca, [2]string{"tls.names", strings.Join(t.Names, " ")}) {
		if f[1] != "" {
			l.report(f[0], "cannot be combined with tls.certificate and tls.key: it applies to certificates that "+
				"kmsgate issues")
		}
	}
}

// checkAudit reports a size that would delete almost every old file, because it lacks its unit, and
// a name that marks a compressed file.
func (l *ledger) checkAudit(a Audit) {
	if a.KeepSize > 0 && a.KeepSize/2 < a.RotateSize {
		l.report("audit.keep_size", "must be 0, or at least twice audit.rotate_size, which is %s", a.RotateSize)
	}
	if strings.HasSuffix(a.File, ".gz") {
		l.report("audit.file", "must not end with .gz, which marks compressed files")
	}
}

// checkAddresses reports an address that two fields name. Port 0 denotes another port each
// time.
func (l *ledger) checkAddresses(c *Config) {
	fields := map[string]string{} // by address
	check := func(field, address string) {
		if address == "" || strings.HasSuffix(address, ":0") {
			return
		}
		if other, duplicate := fields[address]; duplicate {
			l.report(field, "is also the address of %s: choose another address", other)
		}
		fields[address] = field
	}
	for i, listener := range c.Listeners {
		check(fmt.Sprintf("listeners[%d].address", i), listener.Address)
	}
	check("metrics.listen", c.Metrics.Listen)
}

// checkFiles reports a file that two uses share, because one would overwrite the other's
// content. Only tls.certificate and tls.key can be the same file.
func (l *ledger) checkFiles(c *Config) {
	fields := map[string]string{c.RefusedPINFile(): "the record of refused PINs"} // by path
	for _, f := range append(c.writtenFiles(),
		[2]string{"token.pin_file", c.Token.PINFile},
		[2]string{"token.softhsm_conf", c.Token.SoftHSMConf},
		[2]string{"tls.certificate", c.TLS.Certificate}) {
		if f[1] == "" {
			continue
		}
		other, duplicate := fields[f[1]]
		fields[f[1]] = f[0]
		if !duplicate {
			continue
		}
		field := f[0]
		if _, set := l.lines[field]; !set { // a default, so the operator can only change the other field
			field, other = other, field
		}
		l.report(field, "is also the file of %s: choose another file", other)
	}
}

// writtenFiles returns the fields that name files which kmsgate writes, with these files.
func (c *Config) writtenFiles() [][2]string {
	return [][2]string{
		{"store.file", c.Store.File},
		{"audit.file", c.Audit.File},
		{"tls.ca_file", c.TLS.CAFile},
		{"tls.ca_key_file", c.TLS.CAKeyFile},
		{"admin.socket", c.Admin.Socket},
		{"token.softhsm", c.Token.SoftHSM},
	}
}
