package config_test

import (
	"slices"
	"testing"

	"github.com/kmsgate/kmsgate/internal/config"
)

// TestChanged tests that Changed names every field that differs, and no other.
func TestChanged(t *testing.T) {
	parse := func(text string) *config.Config {
		t.Helper()
		c, err := config.Parse([]byte("instance: {id: kst-1, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: token}\n"+text), "/kms")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const listeners = "listeners: [{address: 'localhost:1'}, {address: 'localhost:2'}]\n"
	before := parse(listeners + "tls: {names: [a.example]}\n")
	for name, tc := range map[string]struct {
		after string
		want  []string
	}{
		"nothing":        {listeners + "tls: {names: [a.example]}\nlog: {level: info}\n", nil},
		"quota, level":   {listeners + "tls: {names: [a.example]}\nlog: {level: debug}\nquotas: {shared: {key_read: 7}}\n", []string{"quotas.shared.key_read", "log.level"}},
		"list":           {listeners + "tls: {names: [a.example, b.example]}\n", []string{"tls.names"}},
		"no list":        {listeners, []string{"tls.names"}},
		"listener":       {"listeners: [{address: 'localhost:1'}, {address: 'localhost:2', gateway: shared}]\ntls: {names: [a.example]}\n", []string{"listeners[1].gateway"}},
		"fewer":          {"listeners: [{address: 'localhost:2'}]\ntls: {names: [a.example]}\n", []string{"listeners", "listeners[0].address"}},
		"more":           {"listeners: [{address: 'localhost:1'}, {address: 'localhost:2'}, {address: 'localhost:3'}]\ntls: {names: [a.example]}\n", []string{"listeners"}},
		"paths, on disk": {"directory: /other\n" + listeners + "tls: {names: [a.example]}\naudit: {file: /kms/audit.log}\n", []string{"directory", "token.softhsm", "store.file", "tls.ca_file", "tls.ca_key_file", "admin.socket"}},
	} {
		if got := config.Changed(before, parse(tc.after)); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}
