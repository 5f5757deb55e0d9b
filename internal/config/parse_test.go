package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// minimal is a configuration with only the required fields.
const minimal = `instance:
  id: kst-test
  region: cn-hangzhou
  account: "1000000000000001"
token:
  module: /lib/module.so
listeners:
  - address: 127.0.0.1:443
`

func TestMinimal(t *testing.T) {
	got, err := Parse([]byte(minimal), "/etc/kmsgate")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Directory = "/etc/kmsgate"
	want.Instance = Instance{ID: "kst-test", Region: "cn-hangzhou", Account: "1000000000000001"}
	want.Token.Module = "/lib/module.so"
	want.Token.PINFile = "/etc/kmsgate/pin"
	want.Store.File = "/etc/kmsgate/kmsgate.db"
	want.Audit.File = "/etc/kmsgate/audit.log"
	want.TLS.CAFile = "/etc/kmsgate/ca.pem"
	want.TLS.CAKeyFile = "/etc/kmsgate/ca-key.pem"
	want.Admin.Socket = "/etc/kmsgate/admin/admin.sock"
	listener := DefaultListener()
	listener.Address = "127.0.0.1:443"
	want.Listeners = []Listener{listener}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPaths(t *testing.T) {
	for directory, want := range map[string]string{
		`directory: data`:       "/etc/kmsgate/data/kmsgate.db",
		`directory: ../data`:    "/etc/data/kmsgate.db",
		`directory: ""`:         "/etc/kmsgate/kmsgate.db",
		`directory: /var//lib/`: "/var/lib/kmsgate.db",
	} {
		c, err := Parse([]byte(minimal+directory), "/etc/kmsgate")
		if err != nil {
			t.Errorf("%s: %v", directory, err)
		} else if c.Store.File != want || c.Directory != filepath.Dir(want) {
			t.Errorf("%s: got store.file %q in %q, want %q", directory, c.Store.File, c.Directory, want)
		}
	}
}

// TestExcludedDefaults tests that a default is dropped if another field excludes it.
func TestExcludedDefaults(t *testing.T) {
	for _, test := range []struct {
		old, new string
		want     func(*Config) bool
	}{
		{"module: /lib/module.so", "{module: m, serial: abc}", func(c *Config) bool { return c.Token.Label == "" && c.Token.PINFile != "" }},
		{"module: /lib/module.so", "{module: m, pin_env: PIN}", func(c *Config) bool { return c.Token.Label == "kmsgate" && c.Token.PINFile == "" }},
		{"module: /lib/module.so", "softhsm: soft", func(c *Config) bool {
			return c.Token == Token{SoftHSM: "/etc/soft", GenerationTimeout: 10 * time.Minute, SessionCopies: "auto"}
		}},
		{"listeners:", "tls: {certificate: c, key: k}\nlisteners:", func(c *Config) bool { return c.TLS.CAFile == "" && c.TLS.CAKeyFile == "" }},
		{"listeners:", "audit: {rotate_age: 0, rotate_size: 65536}\nlisteners:", func(c *Config) bool { return c.Audit.RotateAge == 0 && c.Audit.RotateSize == 64*KiB }},
		{"listeners:", "audit: {keep_age: 8760h, keep_size: 200MiB}\nlisteners:", func(c *Config) bool { return c.Audit.KeepAge == 8760*time.Hour && c.Audit.KeepSize == 200*MiB }},
		{"listeners:", "limits: {version_interval: 90m}\nlisteners:", func(c *Config) bool { return c.Limits.VersionInterval == 90*time.Minute }},
	} {
		c, err := Parse([]byte(strings.Replace(minimal, test.old, test.new, 1)), "/etc")
		if err != nil {
			t.Errorf("%s: %v", test.new, err)
		} else if !test.want(c) {
			t.Errorf("%s: got %+v", test.new, c)
		}
	}
}

// replaced returns minimal with old replaced by new.
func replaced(old, new string) string {
	if !strings.Contains(minimal, old) {
		panic(old)
	}
	return strings.Replace(minimal, old, new, 1)
}

// TestMistakes tests that each file has one mistake, with its line and the start of its text.
func TestMistakes(t *testing.T) {
	module, address, account := "module: /lib/module.so", "- address: 127.0.0.1:443", `account: "1000000000000001"`
	for _, test := range []struct{ content, want string }{
		// The file as a whole.
		{minimal + "---\nlog: {level: debug}\n", "line 9: a second YAML document"},
		{minimal + "log: [", "invalid YAML"},
		{minimal + "\x00", "invalid YAML"},
		{"kmsgate", "line 1: the file must have the sections directory, instance"},
		{"- a", "line 1: the file must have the sections"},
		{minimal + strings.Repeat("#\n", 40<<10), "more than 64 KiB"},

		// Fields that are unknown, set twice, or not names.
		{minimal + "nonsense: 1", "line 9: nonsense: unknown field (the file has the fields directory, instance,"},
		{minimal + "log: {levle: debug}", "line 9: log.levle: unknown field (log has the fields format, level)"},
		{replaced(module, module+"\n  pin: 1234"), "line 7: token.pin: unknown field"},
		{minimal + "log: {level: debug, level: info}", "line 9: log.level: is already set in line 9"},
		{minimal + "token: {}", "line 9: token: is already set in line 5"},
		{replaced(address, address+"\n    adress: a:1"), "line 9: listeners[0].adress: unknown field (listeners[0] has the fields address,"},
		{minimal + "? [a]\n: b", `line 9: "": unknown field`},
		{minimal + "<<: {}", `line 9: "<<": unknown field`},
		{minimal + "log: &a {level: debug}\nmetrics: *a", "line 10: metrics: YAML aliases are not supported"},
		{minimal + "log: {level: !!str debug}", "line 9: log.level: YAML tags are not supported"},

		// Wrong kinds.
		{replaced(account, "account: 1000000000000001"), "line 4: instance.account: must be a string: put the value in quotes"},
		{minimal + "store: {file: 1}", "line 9: store.file: must be a string"},
		{minimal + "store: {file: [a]}", "line 9: store.file: must be a single value"},
		{minimal + "store: {file: }", "line 9: store.file: has no value"},
		{minimal + "store:", "line 9: store: has no value"},
		{minimal + "store: kmsgate.db", "line 9: store: must be a section with the fields file"},
		{minimal + "tls: {names: a}", "line 9: tls.names: must be a list"},
		{minimal + "limits: {keys: many}", "line 9: limits.keys: must be a whole number"},
		{minimal + "limits: {keys: [1]}", "line 9: limits.keys: must be a single value"},
		{minimal + `limits: {keys: "5"}`, "line 9: limits.keys: must be a whole number"},
		{minimal + "limits: {keys: 1.5}", "line 9: limits.keys: must be a whole number"},
		{minimal + "limits: {keys: 0x10}", "line 9: limits.keys: must be a whole number"},
		{minimal + "limits: {keys: 010}", "line 9: limits.keys: must be a whole number"},
		{minimal + "limits: {keys: 1_000}", "line 9: limits.keys: must be a whole number"},
		{minimal + "limits: {keys: true}", "line 9: limits.keys: must be a whole number"},

		// Out of range.
		{minimal + "limits: {keys: -1}", "line 9: limits.keys: must not be negative"},
		{minimal + "limits: {keys: 0}", "line 9: limits.keys: must be at least 1"},
		{minimal + "limits: {keys: 3000000000}", "line 9: limits.keys: is too large"},
		{minimal + "limits: {keys: 30000000000000000000}", "line 9: limits.keys: is too large"},
		{replaced(module, module+"\n  sessions: -2"), "line 7: token.sessions: must not be negative"},
		{minimal + "quotas: {shared: {asymmetric: 0}}", "line 9: quotas.shared.asymmetric: must be at least 1"},
		{minimal + "quotas: {dedicated: {per_user: -1}}", "line 9: quotas.dedicated.per_user: must not be negative"},
		{minimal + "audit: {checkpoint_every: 10}", "line 9: audit.checkpoint_every: must be a number with its unit"},
		{minimal + "audit: {checkpoint_every: 7d}", "line 9: audit.checkpoint_every: must be a number with its unit"},
		{minimal + "audit: {checkpoint_every: [1s]}", "line 9: audit.checkpoint_every: must be a single value"},
		{minimal + "audit: {checkpoint_every: 0s}", "line 9: audit.checkpoint_every: must be at least 1s"},
		{minimal + "audit: {rotate_age: -1h}", "line 9: audit.rotate_age: must not be negative"},
		{minimal + "audit: {rotate_size: 100MB}", "line 9: audit.rotate_size: must be a whole number of bytes"},
		{minimal + "audit: {rotate_size: 1.5GiB}", "line 9: audit.rotate_size: must be a whole number of bytes"},
		{minimal + "audit: {rotate_size: [1]}", "line 9: audit.rotate_size: must be a single value"},
		{minimal + "audit: {rotate_size: 100}", "line 9: audit.rotate_size: must be at least 64KiB"},
		{minimal + "audit: {rotate_size: -1MiB}", "line 9: audit.rotate_size: must not be negative"},
		{minimal + "audit: {keep_age: -1h}", "line 9: audit.keep_age: must not be negative"},
		{minimal + "audit: {keep_age: 365d}", "line 9: audit.keep_age: must be a number with its unit"},
		{minimal + "audit: {keep_size: -1MiB}", "line 9: audit.keep_size: must not be negative"},
		{minimal + "quotas: {dedicated: {other: -1}}", "line 9: quotas.dedicated.other: must not be negative"},
		{minimal + "audit: {reserve: 64MB}", "line 9: audit.reserve: must be a whole number of bytes"},
		{minimal + "audit: {warn_free: 9999999999GiB}", "line 9: audit.warn_free: is too large"},
		{minimal + "audit: {warn_free: 99999999999999999999}", "line 9: audit.warn_free: is too large"},

		// Wrong forms.
		{replaced("kst-test", "Kst_Test"), "line 2: instance.id: must be the id of a KMS instance"},
		{replaced("cn-hangzhou", "Hangzhou"), "line 3: instance.region: must be the id of a region"},
		{replaced(account, `account: "12a"`), "line 4: instance.account: must be the id of an account"},
		{replaced(account, `account: "`+strings.Repeat("1", 33)+`"`), "line 4: instance.account: must be the id of an account"},
		{replaced(module, module+"\n  label: "+strings.Repeat("中", 11)), "line 7: token.label: must have at most 32 bytes"},
		{replaced(module, module+"\n  serial: "+strings.Repeat("a", 17)), "line 7: token.serial: must have at most 16 bytes"},
		{replaced(module, module+"\n  pin_env: 12-34"), "line 7: token.pin_env: must be the name of an environment variable"},
		{replaced(address, "- address: 127.0.0.1"), "line 8: listeners[0].address: must be host:port"},
		{replaced(address, "- address: :443"), "line 8: listeners[0].address: must be host:port"},
		{replaced(address, "- address: 127.0.0.1:https"), "line 8: listeners[0].address: must be host:port"},
		{replaced(address, "- address: 127.0.0.1:65536"), "line 8: listeners[0].address: must be host:port"},
		{replaced(address, "- address: '*.example:443'"), "line 8: listeners[0].address: must be host:port"},
		{replaced(module, module+"\n  user_type: so"), "line 7: token.user_type: must be user or crypto_user"},
		{replaced(address, address+"\n    gateway: both"), "line 9: listeners[0].gateway: must be shared or dedicated"},
		{replaced(address, address+"\n    operations: some"), "line 9: listeners[0].operations: must be all or business"},
		{minimal + "metrics: {listen: 9464}", "line 9: metrics.listen: must be a string"},
		{minimal + `metrics: {listen: "9464"}`, "line 9: metrics.listen: must be host:port"},
		{minimal + "tls: {names: [good.example, 'no good']}", "line 9: tls.names[1]: must be a DNS name or an IP address"},
		{minimal + "tls: {names: ['']}", "line 9: tls.names[0]: is empty"},
		{minimal + "log: {format: xml}", "line 9: log.format: must be text or json"},
		{minimal + "log: {level: warning}", "line 9: log.level: must be debug, info, warn or error"},
		{minimal + `store: {file: "a\nb"}`, "line 9: store.file: has a character that is not printable"},
		{minimal + "admin: {socket: /" + strings.Repeat("s", 110) + "}", "line 9: admin.socket: the socket's name has 110 bytes, but at this path it can have at most 82"},

		// Missing.
		{replaced(account, ""), "line 1: instance.account: is missing: it must be the id of an account"},
		{replaced(account, `account: ""`), "line 4: instance.account: is missing"},
		{replaced(module, "module: ''"), "line 6: token.module: is missing"},
		{replaced(module, module+"\n  label: ''"), "line 7: token.label: is missing: set it or token.serial"},
		{replaced(module, module+"\n  pin_file: ''"), "line 7: token.pin_file: is missing: set it or token.pin_env"},
		{replaced(address, "[]"), "line 7: listeners: is missing: it must have at least one"},
		{replaced(address, "- gateway: shared"), "line 8: listeners[0].address: is missing: it must be host:port"},
		{minimal + "store: {file: ''}", "line 9: store.file: is missing: it must be a path"},
		{minimal + "tls: {ca_file: ''}", "line 9: tls.ca_file: is missing"},
		{minimal + "tls: {key: k}", "line 9: tls.certificate: is missing: set it to the certificate of tls.key"},
		{minimal + "tls: {certificate: c}", "line 9: tls.key: is missing: set it to the private key of tls.certificate"},
		{minimal + "log: {level: ''}", "line 9: log.level: is missing: it must be debug, info, warn or error"},

		// Contradictory.
		{replaced(module, module+"\n  label: a\n  serial: b"), "line 8: token.serial: cannot be combined with token.label"},
		{replaced(module, module+"\n  pin_file: a\n  pin_env: B"), "line 8: token.pin_env: cannot be combined with token.pin_file"},
		{replaced(module, module+"\n  softhsm: a"), "line 6: token.module: cannot be combined with token.softhsm"},
		{replaced(module, "softhsm: a\n  label: b"), "line 7: token.label: cannot be combined with token.softhsm"},
		{replaced(module, "softhsm: a\n  serial: b"), "line 7: token.serial: cannot be combined with token.softhsm"},
		{replaced(module, "softhsm: a\n  pin_file: b"), "line 7: token.pin_file: cannot be combined with token.softhsm"},
		{replaced(module, "softhsm: a\n  pin_env: B"), "line 7: token.pin_env: cannot be combined with token.softhsm"},
		{replaced(module, "softhsm: a\n  user_type: user"), "line 7: token.user_type: cannot be combined with token.softhsm"},
		{replaced(module, "softhsm: a\n  sessions: 2"), "line 7: token.sessions: cannot be combined with token.softhsm"},
		{replaced(module, "softhsm: a\n  softhsm_conf: b"), "line 7: token.softhsm_conf: cannot be combined with token.softhsm"},
		{minimal + "tls: {certificate: c, key: k, ca_file: a}", "line 9: tls.ca_file: cannot be combined with tls.certificate"},
		{minimal + "tls: {certificate: c, key: k, ca_key_file: a}", "line 9: tls.ca_key_file: cannot be combined with tls.certificate"},
		{minimal + "tls: {certificate: c, key: k, names: [a]}", "line 9: tls.names: cannot be combined with tls.certificate"},
		{minimal + "  - address: 127.0.0.1:443", "line 9: listeners[1].address: is also the address of listeners[0].address"},
		{minimal + "metrics: {listen: 127.0.0.1:443}", "line 9: metrics.listen: is also the address of listeners[0].address"},
		{minimal + "store: {file: audit.log}", "line 9: store.file: is also the file of audit.file"},
		{minimal + "store: {file: a}\naudit: {file: a}", "line 10: audit.file: is also the file of store.file"},
		{replaced(module, module+"\n  softhsm_conf: kmsgate.db"), "line 7: token.softhsm_conf: is also the file of store.file"},
		{minimal + "audit: {keep_size: 100}", "line 9: audit.keep_size: must be 0, or at least twice audit.rotate_size, which is 100MiB"},
		{minimal + "audit: {rotate_size: 1MiB, keep_size: 2047KiB}", "line 9: audit.keep_size: must be 0, or at least twice audit.rotate_size, which is 1MiB"},
		{minimal + "audit: {file: log.gz}", "line 9: audit.file: must not end with .gz"},
		{minimal + "store: {file: ./x/../pin}", "line 9: store.file: is also the file of token.pin_file"},
		{replaced(module, module+"\n  pin_file: pin-refused"), "line 7: token.pin_file: is also the file of the record of refused PINs"},
	} {
		c, err := Parse([]byte(test.content), "/etc/kmsgate")
		var mistakes Mistakes
		if c != nil || !errors.As(err, &mistakes) || len(mistakes) != 1 {
			t.Errorf("got %v, want one mistake %q, in\n%s", err, test.want, test.content[:min(1000, len(test.content))])
			continue
		}
		if got := mistakes[0].String(); !strings.HasPrefix(got, test.want) && !(mistakes[0].Field == "" && strings.Contains(got, test.want)) {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

// TestAllMistakes tests that all mistakes are reported at once and in their order, without
// those that follow from others.
func TestAllMistakes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsgate.yaml")
	content := `token: module.so
instance:
  id: 5
  account: 1000000000000001
  regoin: cn-hangzhou
listeners:
  - gateway: both
    read_timeout: 30
  - nonsense
log: {level: loud}
log: {format: xml}
admin: {socket: /s, uids: [1]}
`
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path)
	want := fmt.Sprintf(`the configuration %q has mistakes:
line 1: token: must be a section with the fields module, label, serial, pin_file, pin_env, user_type, sessions, generation_timeout, session_copies, softhsm_conf, softhsm
line 2: instance.region: is missing: it must be the id of a region, such as cn-hangzhou
line 3: instance.id: must be a string: put the value in quotes
line 4: instance.account: must be a string: put the value in quotes
line 5: instance.regoin: unknown field (instance has the fields id, region, account)
line 7: listeners[0].gateway: must be shared or dedicated
line 7: listeners[0].address: is missing: it must be host:port, such as 127.0.0.1:443, or 0.0.0.0:443 for all addresses
line 8: listeners[0].read_timeout: must be a number with its unit, such as 500ms, 10s, 5m or 24h
line 9: listeners[1]: must be a section with the fields address, gateway, operations, client_certificates, max_connections, max_connections_per_source, header_timeout, read_timeout, idle_timeout
line 10: log.level: must be debug, info, warn or error
line 11: log: is already set in line 10: remove one of them
line 12: admin.uids: unknown field (admin has the fields socket, signing_user)`, path)
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Error(diff)
	}
}

func TestEmpty(t *testing.T) {
	for _, content := range []string{"", "# nothing\n", "{}"} {
		_, err := Parse([]byte(content), "/etc")
		var fields []string
		var mistakes Mistakes
		errors.As(err, &mistakes)
		for _, m := range mistakes {
			fields = append(fields, m.Field)
		}
		want := []string{"instance.id", "instance.region", "instance.account", "listeners", "token.module"}
		if diff := cmp.Diff(want, fields); diff != "" {
			t.Errorf("%q: %s", content, diff)
		}
	}
}

func TestLoadMissing(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "kmsgate.yaml"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load: got %v, want fs.ErrNotExist", err)
	}
}

// TestSecretsAreNotRepeated tests that no message repeats a PIN that is in the wrong field.
func TestSecretsAreNotRepeated(t *testing.T) {
	for _, line := range []string{"pin: s3cret-PIN", "pin: 'a b s3cret-PIN'", "pin_env: s3cret-PIN", "sessions: s3cret-PIN", "label: 's3cret-PIN\t'"} {
		_, err := Parse([]byte(replaced("module: /lib/module.so", "module: m\n  "+line)), "/etc")
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want an error without the PIN", line, err)
		}
	}
}
