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

// minimal is as little as a configuration can be.
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
			t.Errorf("%s: the store is %s in %s, want %s", directory, c.Store.File, c.Directory, want)
		}
	}
}

// TestDefaultsYield shows that defaults give way to what excludes them.
func TestDefaultsYield(t *testing.T) {
	for _, test := range []struct {
		old, new string
		want     func(*Config) bool
	}{
		{"module: /lib/module.so", "{module: m, serial: abc}", func(c *Config) bool { return c.Token.Label == "" && c.Token.PINFile != "" }},
		{"module: /lib/module.so", "{module: m, pin_env: PIN}", func(c *Config) bool { return c.Token.Label == "kmsgate" && c.Token.PINFile == "" }},
		{"module: /lib/module.so", "softhsm: soft", func(c *Config) bool { return c.Token == Token{SoftHSM: "/etc/soft", SessionCopies: "auto"} }},
		{"listeners:", "tls: {certificate: c, key: k}\nlisteners:", func(c *Config) bool { return c.TLS.CAFile == "" && c.TLS.CAKeyFile == "" }},
		{"listeners:", "audit: {rotate_age: 0, rotate_size: 65536}\nlisteners:", func(c *Config) bool { return c.Audit.RotateAge == 0 && c.Audit.RotateSize == 64*KiB }},
		{"listeners:", "limits: {version_interval: 90m}\nlisteners:", func(c *Config) bool { return c.Limits.VersionInterval == 90*time.Minute }},
	} {
		c, err := Parse([]byte(strings.Replace(minimal, test.old, test.new, 1)), "/etc")
		if err != nil {
			t.Errorf("%s: %v", test.new, err)
		} else if !test.want(c) {
			t.Errorf("%s: %+v", test.new, c)
		}
	}
}

// instead gives minimal with old replaced.
func instead(old, new string) string {
	if !strings.Contains(minimal, old) {
		panic(old)
	}
	return strings.Replace(minimal, old, new, 1)
}

// TestMistakes has one mistake in each file: where, and a piece of what is said.
func TestMistakes(t *testing.T) {
	module, address, account := "module: /lib/module.so", "- address: 127.0.0.1:443", `account: "1000000000000001"`
	for _, test := range []struct{ content, want string }{
		// The file as a whole.
		{minimal + "---\nlog: {level: debug}\n", "line 9: a second document"},
		{minimal + "log: [", "this is not YAML"},
		{minimal + "\x00", "this is not YAML"},
		{"kmsgate", "line 1: the file must be made of sections: directory, instance"},
		{"- a", "line 1: the file must be made of sections"},
		{minimal + strings.Repeat("#\n", 40<<10), "more than 64 KiB"},

		// Fields that are unknown, double or no fields.
		{minimal + "nonsense: 1", "line 9: nonsense: there is no such field: the file has directory, instance,"},
		{minimal + "log: {levle: debug}", "line 9: log.levle: there is no such field: log has format, level"},
		{instead(module, module+"\n  pin: 1234"), "line 7: token.pin: there is no such field"},
		{minimal + "log: {level: debug, level: info}", "line 9: log.level: is given in line 9 already"},
		{minimal + "token: {}", "line 9: token: is given in line 5 already"},
		{instead(address, address+"\n    adress: a:1"), "line 9: listeners[0].adress: there is no such field: listeners[0] has address,"},
		{minimal + "? [a]\n: b", `line 9: "": there is no such field`},
		{minimal + "<<: {}", `line 9: "<<": there is no such field`},
		{minimal + "log: &a {level: debug}\nmetrics: *a", "line 10: metrics: aliases are not supported"},
		{minimal + "log: {level: !!str debug}", "line 9: log.level: tags are not supported"},

		// Wrong kinds.
		{instead(account, "account: 1000000000000001"), "line 4: instance.account: must be a text: put the value in quotes"},
		{minimal + "store: {file: 1}", "line 9: store.file: must be a text"},
		{minimal + "store: {file: [a]}", "line 9: store.file: must be one value"},
		{minimal + "store: {file: }", "line 9: store.file: has no value"},
		{minimal + "store:", "line 9: store: has no value"},
		{minimal + "store: kmsgate.db", "line 9: store: must be a section: file"},
		{minimal + "tls: {names: a}", "line 9: tls.names: must be a list"},
		{minimal + "limits: {keys: many}", "line 9: limits.keys: must be a whole number"},
		{minimal + "limits: {keys: [1]}", "line 9: limits.keys: must be one value"},
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
		{instead(module, module+"\n  sessions: -2"), "line 7: token.sessions: must not be negative"},
		{minimal + "quotas: {shared: {asymmetric: 0}}", "line 9: quotas.shared.asymmetric: must be at least 1"},
		{minimal + "quotas: {dedicated: {per_user: -1}}", "line 9: quotas.dedicated.per_user: must not be negative"},
		{minimal + "audit: {checkpoint_every: 10}", "line 9: audit.checkpoint_every: write a number with its unit"},
		{minimal + "audit: {checkpoint_every: 7d}", "line 9: audit.checkpoint_every: write a number with its unit"},
		{minimal + "audit: {checkpoint_every: [1s]}", "line 9: audit.checkpoint_every: must be one value"},
		{minimal + "audit: {checkpoint_every: 0s}", "line 9: audit.checkpoint_every: must be at least 1s"},
		{minimal + "audit: {rotate_age: -1h}", "line 9: audit.rotate_age: must not be negative"},
		{minimal + "audit: {rotate_size: 100MB}", "line 9: audit.rotate_size: write a whole number of bytes"},
		{minimal + "audit: {rotate_size: 1.5GiB}", "line 9: audit.rotate_size: write a whole number of bytes"},
		{minimal + "audit: {rotate_size: [1]}", "line 9: audit.rotate_size: must be one value"},
		{minimal + "audit: {rotate_size: 100}", "line 9: audit.rotate_size: must be at least 64KiB"},
		{minimal + "audit: {rotate_size: -1MiB}", "line 9: audit.rotate_size: must not be negative"},
		{minimal + "audit: {warn_free: 9999999999GiB}", "line 9: audit.warn_free: is too large"},
		{minimal + "audit: {warn_free: 99999999999999999999}", "line 9: audit.warn_free: is too large"},

		// Wrong forms.
		{instead("kst-test", "Kst_Test"), "line 2: instance.id: must be the id of a KMS instance"},
		{instead("cn-hangzhou", "Hangzhou"), "line 3: instance.region: must be a region's id"},
		{instead(account, `account: "12a"`), "line 4: instance.account: must be an account's id"},
		{instead(account, `account: "`+strings.Repeat("1", 33)+`"`), "line 4: instance.account: must be an account's id"},
		{instead(module, module+"\n  label: "+strings.Repeat("中", 11)), "line 7: token.label: must have at most 32 bytes"},
		{instead(module, module+"\n  serial: "+strings.Repeat("a", 17)), "line 7: token.serial: must have at most 16 bytes"},
		{instead(module, module+"\n  pin_env: 12-34"), "line 7: token.pin_env: must be the name of an environment variable"},
		{instead(address, "- address: 127.0.0.1"), "line 8: listeners[0].address: must be host:port"},
		{instead(address, "- address: :443"), "line 8: listeners[0].address: must be host:port"},
		{instead(address, "- address: 127.0.0.1:https"), "line 8: listeners[0].address: must be host:port"},
		{instead(address, "- address: 127.0.0.1:65536"), "line 8: listeners[0].address: must be host:port"},
		{instead(address, "- address: '*.example:443'"), "line 8: listeners[0].address: must be host:port"},
		{instead(module, module+"\n  user_type: so"), "line 7: token.user_type: must be user or crypto_user"},
		{instead(address, address+"\n    gateway: both"), "line 9: listeners[0].gateway: must be shared or dedicated"},
		{instead(address, address+"\n    operations: some"), "line 9: listeners[0].operations: must be all or business"},
		{minimal + "metrics: {listen: 9464}", "line 9: metrics.listen: must be a text"},
		{minimal + `metrics: {listen: "9464"}`, "line 9: metrics.listen: must be host:port"},
		{minimal + "tls: {names: [good.example, 'no good']}", "line 9: tls.names[1]: must be a DNS name or an IP address"},
		{minimal + "tls: {names: ['']}", "line 9: tls.names[0]: is empty"},
		{minimal + "log: {format: xml}", "line 9: log.format: must be text or json"},
		{minimal + "log: {level: warning}", "line 9: log.level: must be debug, info, warn or error"},
		{minimal + `store: {file: "a\nb"}`, "line 9: store.file: has a character that cannot be printed"},
		{minimal + "admin: {socket: " + strings.Repeat("/long", 22) + "}", "line 9: admin.socket: its path has 110 bytes and a socket's can have 107"},

		// Missing.
		{instead(account, ""), "line 1: instance.account: is missing: must be an account's id"},
		{instead(account, `account: ""`), "line 4: instance.account: is missing"},
		{instead(module, "module: ''"), "line 6: token.module: is missing"},
		{instead(module, module+"\n  label: ''"), "line 7: token.label: is missing: give it or token.serial"},
		{instead(module, module+"\n  pin_file: ''"), "line 7: token.pin_file: is missing: give it or token.pin_env"},
		{instead(address, "[]"), "line 7: listeners: is missing: at least one"},
		{instead(address, "- gateway: shared"), "line 8: listeners[0].address: is missing: must be host:port"},
		{minimal + "store: {file: ''}", "line 9: store.file: is missing: must be a path"},
		{minimal + "tls: {ca_file: ''}", "line 9: tls.ca_file: is missing"},
		{minimal + "tls: {key: k}", "line 9: tls.certificate: is missing: tls.key is given"},
		{minimal + "tls: {certificate: c}", "line 9: tls.key: is missing: tls.certificate is given"},
		{minimal + "log: {level: ''}", "line 9: log.level: is missing: must be debug, info, warn or error"},

		// Contradictory.
		{instead(module, module+"\n  label: a\n  serial: b"), "line 8: token.serial: does not go with token.label"},
		{instead(module, module+"\n  pin_file: a\n  pin_env: B"), "line 8: token.pin_env: does not go with token.pin_file"},
		{instead(module, module+"\n  softhsm: a"), "line 6: token.module: does not go with token.softhsm"},
		{instead(module, "softhsm: a\n  label: b"), "line 7: token.label: does not go with token.softhsm"},
		{instead(module, "softhsm: a\n  serial: b"), "line 7: token.serial: does not go with token.softhsm"},
		{instead(module, "softhsm: a\n  pin_file: b"), "line 7: token.pin_file: does not go with token.softhsm"},
		{instead(module, "softhsm: a\n  pin_env: B"), "line 7: token.pin_env: does not go with token.softhsm"},
		{instead(module, "softhsm: a\n  user_type: user"), "line 7: token.user_type: does not go with token.softhsm"},
		{instead(module, "softhsm: a\n  sessions: 2"), "line 7: token.sessions: does not go with token.softhsm"},
		{instead(module, "softhsm: a\n  softhsm_conf: b"), "line 7: token.softhsm_conf: does not go with token.softhsm"},
		{minimal + "tls: {certificate: c, key: k, ca_file: a}", "line 9: tls.ca_file: does not go with tls.certificate"},
		{minimal + "tls: {certificate: c, key: k, ca_key_file: a}", "line 9: tls.ca_key_file: does not go with tls.certificate"},
		{minimal + "tls: {certificate: c, key: k, names: [a]}", "line 9: tls.names: does not go with tls.certificate"},
		{minimal + "  - address: 127.0.0.1:443", "line 9: listeners[1].address: is the address of listeners[0].address already"},
		{minimal + "metrics: {listen: 127.0.0.1:443}", "line 9: metrics.listen: is the address of listeners[0].address already"},
		{minimal + "store: {file: audit.log}", "line 9: store.file: is the same file as audit.file"},
		{minimal + "store: {file: a}\naudit: {file: a}", "line 10: audit.file: is the same file as store.file"},
		{instead(module, module+"\n  softhsm_conf: kmsgate.db"), "line 7: token.softhsm_conf: is the same file as store.file"},
		{minimal + "store: {file: ./x/../pin}", "line 9: store.file: is the same file as token.pin_file"},
	} {
		c, err := Parse([]byte(test.content), "/etc/kmsgate")
		var mistakes Mistakes
		if c != nil || !errors.As(err, &mistakes) || len(mistakes) != 1 {
			t.Errorf("want one mistake, %q, got %v in\n%s", test.want, err, test.content[:min(1000, len(test.content))])
			continue
		}
		if got := mistakes[0].String(); !strings.HasPrefix(got, test.want) && !(mistakes[0].Field == "" && strings.Contains(got, test.want)) {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

// TestAllMistakes shows that all mistakes are named at once, in their order, and
// not what follows from them.
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
	want := fmt.Sprintf(`the configuration %s cannot be used:
line 1: token: must be a section: module, label, serial, pin_file, pin_env, user_type, sessions, session_copies, softhsm_conf, softhsm
line 2: instance.region: is missing: must be a region's id, as cn-hangzhou
line 3: instance.id: must be a text: put the value in quotes
line 4: instance.account: must be a text: put the value in quotes
line 5: instance.regoin: there is no such field: instance has id, region, account
line 7: listeners[0].gateway: must be shared or dedicated
line 7: listeners[0].address: is missing: must be host:port, as 127.0.0.1:443, or 0.0.0.0:443 for every address
line 8: listeners[0].read_timeout: write a number with its unit: 500ms, 10s, 5m, 24h
line 9: listeners[1]: must be a section: address, gateway, operations, client_certificates, max_connections, max_connections_per_source, header_timeout, read_timeout, idle_timeout
line 10: log.level: must be debug, info, warn or error
line 11: log: is given in line 10 already: remove one
line 12: admin.uids: there is no such field: admin has socket`, path)
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
		t.Error(err)
	}
}

// TestSecretsAreNotRepeated has a PIN where it does not belong.
func TestSecretsAreNotRepeated(t *testing.T) {
	for _, line := range []string{"pin: s3cret-PIN", "pin: 'a b s3cret-PIN'", "pin_env: s3cret-PIN", "sessions: s3cret-PIN", "label: 's3cret-PIN\t'"} {
		_, err := Parse([]byte(instead("module: /lib/module.so", "module: m\n  "+line)), "/etc")
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", line, err)
		}
	}
}
