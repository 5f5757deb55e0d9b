package config

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "1KiB": KiB, "1025": KiB + 1, "100MiB": 100 * MiB, "1GiB": GiB, "1025MiB": GiB + MiB,
		"9223372036854775807": math.MaxInt64, "8589934591GiB": (1<<33 - 1) * GiB,
	} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
		if got := want.String(); got != text {
			t.Errorf("Size(%d).String() = %q, want %q", want, got, text)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "+1", "01", "1 KiB", "1kib", "1K", "1B", "1KiBMiB", "8589934592GiB", "9223372036854775808", "1e3", "0x1"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", text, got)
		}
	}
}

func TestMarshal(t *testing.T) {
	c := Default()
	c.Directory = "/tmp/dev"
	c.Instance = Instance{ID: "kst-dev", Region: "cn-hangzhou", Account: "0123"}
	c.Token = Token{SoftHSM: "/tmp/dev/soft: #hsm"}
	c.Store.File, c.Audit.File, c.Admin.Socket = "/tmp/dev/yes", "/tmp/dev/a", "/tmp/dev/s"
	c.Audit.WarnFree = 12345
	c.TLS = TLS{CAFile: "/ca", CAKeyFile: "/cakey", Names: []string{"::1", "1.2.3.4", "a.example", "no", "1e3"}}
	l := DefaultListener()
	l.Address = "[::1]:0"
	c.Listeners = []Listener{l, l}
	compareRoundTrip(t, &c)
}

// compareRoundTrip tests that a configuration is the same after Marshal and Parse.
func compareRoundTrip(t *testing.T, c *Config) {
	t.Helper()
	content, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(content, "/elsewhere")
	if err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	if diff := cmp.Diff(c, got); diff != "" {
		t.Errorf("%s\n%s", diff, content)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(minimal)
	f.Add(Example)
	f.Add(replaced("module: /lib/module.so", "{module: 中, serial: 0x1, pin_env: _, sessions: 9}"))
	f.Add(replaced("module: /lib/module.so", "softhsm: ' x: # '"))
	f.Add(minimal + "tls: {certificate: 'y', key: ~/k}\nmetrics: {listen: \"[::1%eth0]:1\"}\n")
	f.Add(minimal + "tls: {names: [a, '1', yes, 1.example, 1:30]}\naudit: {rotate_age: 1.5h, warn_free: 1}\n")
	f.Add("a: &a [*a]\n---\n...\n")
	f.Fuzz(func(t *testing.T, content string) {
		c, err := Parse([]byte(content), "/etc/kmsgate")
		if (c == nil) != (err != nil) {
			t.Fatalf("Parse: got %v, %v, want either a Config or an error", c, err)
		}
		if err == nil {
			compareRoundTrip(t, c)
		} else if err.Error() == "" {
			t.Error("Parse: got an error with an empty text")
		}
	})
}
