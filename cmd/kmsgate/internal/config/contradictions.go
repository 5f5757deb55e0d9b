package config

import (
	"fmt"
	"strings"
)

// maxSocket is how long a socket's path can be: sun_path less the final zero,
// unix(7).
const maxSocket = 107

// A yielding field's default holds only while another field is not given.
type yielding struct {
	field string
	value *string
}

// dropDefaults takes back defaults that what was given excludes: who names the
// token by its serial number need not empty the label too.
func (l *ledger) dropDefaults(c *Config) {
	label := yielding{"token.label", &c.Token.Label}
	pinFile := yielding{"token.pin_file", &c.Token.PINFile}
	userType := yielding{"token.user_type", &c.Token.UserType}
	for _, rule := range []struct {
		given  string
		yields []yielding
	}{
		{c.Token.Serial, []yielding{label}},
		{c.Token.PINEnv, []yielding{pinFile}},
		{c.Token.SoftHSM, []yielding{label, pinFile, userType}},
		{c.TLS.Certificate + c.TLS.Key, []yielding{{"tls.ca_file", &c.TLS.CAFile}, {"tls.ca_key_file", &c.TLS.CAKeyFile}}},
	} {
		for _, y := range rule.yields {
			if _, given := l.lines[y.field]; rule.given != "" && !given {
				*y.value = ""
			}
		}
	}
}

// contradictions names fields that do not go together.
func (l *ledger) contradictions(c *Config) {
	if c.Token.SoftHSM != "" {
		l.softHSM(c.Token)
	} else {
		l.module(c.Token)
	}
	l.certificate(c.TLS)
	l.addresses(c)
	l.files(c)
	if n := len(c.Admin.Socket); n > maxSocket {
		l.wrong("admin.socket", "its path has %d bytes and a socket's can have %d: choose a shorter one, as /run/kmsgate/admin.sock", n, maxSocket)
	}
}

func (l *ledger) softHSM(t Token) {
	for _, f := range []struct {
		field string
		given bool
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
		if f.given {
			l.wrong(f.field, "does not go with token.softhsm, whose token is the gateway's own: remove one of them")
		}
	}
}

func (l *ledger) module(t Token) {
	if t.Module == "" {
		l.wrong("token.module", "is missing: must be the path of a PKCS#11 module, as /usr/lib/softhsm/libsofthsm2.so; or, for trials, give token.softhsm")
	}
	l.exactlyOne("token.label", t.Label, "token.serial", t.Serial)
	l.exactlyOne("token.pin_file", t.PINFile, "token.pin_env", t.PINEnv)
}

func (l *ledger) exactlyOne(first, value, second, other string) {
	switch {
	case value == "" && other == "":
		l.wrong(first, "is missing: give it or %s", second)
	case value != "" && other != "":
		l.wrong(second, "does not go with %s: remove one of them", first)
	}
}

func (l *ledger) certificate(t TLS) {
	if t.Certificate == "" && t.Key == "" {
		for _, f := range [][2]string{{"tls.ca_file", t.CAFile}, {"tls.ca_key_file", t.CAKeyFile}} {
			if f[1] == "" {
				l.wrong(f[0], "is missing: must be a path; or give a certificate of your own, tls.certificate and tls.key")
			}
		}
		return
	}
	if t.Certificate == "" {
		l.wrong("tls.certificate", "is missing: tls.key is given, so give its certificate too, or neither")
	}
	if t.Key == "" {
		l.wrong("tls.key", "is missing: tls.certificate is given, so give its private key too, or neither")
	}
	for _, f := range [][2]string{{"tls.ca_file", t.CAFile}, {"tls.ca_key_file", t.CAKeyFile}, {"tls.names", strings.Join(t.Names, " ")}} {
		if f[1] != "" {
			l.wrong(f[0], "does not go with tls.certificate and tls.key: it is for certificates that kmsgate issues")
		}
	}
}

// addresses names an address that is given twice. Port 0 is another port each
// time.
func (l *ledger) addresses(c *Config) {
	taken := map[string]string{}
	take := func(field, address string) {
		if address == "" || strings.HasSuffix(address, ":0") {
			return
		}
		if by, twice := taken[address]; twice {
			l.wrong(field, "is the address of %s already: choose another", by)
		}
		taken[address] = field
	}
	for i, listener := range c.Listeners {
		take(fmt.Sprintf("listeners[%d].address", i), listener.Address)
	}
	take("metrics.listen", c.Metrics.Listen)
}

// files names a file that is given for two purposes. One would overwrite the
// other. Certificate and key may well be one file.
func (l *ledger) files(c *Config) {
	taken := map[string]string{}
	for _, f := range append(c.written(),
		[2]string{"token.pin_file", c.Token.PINFile},
		[2]string{"token.softhsm_conf", c.Token.SoftHSMConf},
		[2]string{"tls.certificate", c.TLS.Certificate}) {
		if f[1] == "" {
			continue
		}
		by, twice := taken[f[1]]
		taken[f[1]] = f[0]
		if !twice {
			continue
		}
		change, other := f[0], by
		if _, given := l.lines[change]; !given { // a default: the other is the one to be changed
			change, other = other, change
		}
		l.wrong(change, "is the same file as %s: choose another", other)
	}
}

// written are the fields whose files kmsgate makes, and the files.
func (c *Config) written() [][2]string {
	return [][2]string{
		{"store.file", c.Store.File},
		{"audit.file", c.Audit.File},
		{"tls.ca_file", c.TLS.CAFile},
		{"tls.ca_key_file", c.TLS.CAKeyFile},
		{"admin.socket", c.Admin.Socket},
		{"token.softhsm", c.Token.SoftHSM},
	}
}
