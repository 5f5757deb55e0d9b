package dev_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/adminclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/dev"
	"github.com/kmsgate/kmsgate/internal/softwarekeys"
)

// run runs a dev gateway until it serves, calls ready, and stops it. It wants no notices.
func run(t *testing.T, o dev.Options, ready func(envFile string, env dev.Environment)) {
	t.Helper()
	runWithNotices(t, o, func(envFile string, env dev.Environment, notices []string) {
		if notices != nil {
			t.Errorf("Run: got the notices %q, want none", notices)
		}
		ready(envFile, env)
	})
}

func runWithNotices(t *testing.T, o dev.Options, ready func(envFile string, env dev.Environment, notices []string)) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	called := false
	o.Listen, o.Log, o.Appliance.Device = "127.0.0.1:0", t.Output(), softwarekeys.Device
	o.Ready = func(envFile string, env dev.Environment, notices []string) {
		called = true
		ready(envFile, env, notices)
		stop()
	}
	if err := dev.Run(ctx, o); err != nil || !called {
		t.Fatalf("Run: got %v, called Ready: %v", err, called)
	}
}

// withoutEndpoint returns env without the endpoint, which differs from start to start.
func withoutEndpoint(env dev.Environment) dev.Environment {
	return slices.DeleteFunc(slices.Clone(env), func(v [2]string) bool { return v[0] == "KMSGATE_ENDPOINT" })
}

// TestRunAgain tests that a later run in the same directory serves the same keys with the same
// credentials, and that its configuration can be loaded.
func TestRunAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	var first, second dev.Environment
	run(t, dev.Options{Dir: dir}, func(envFile string, env dev.Environment) {
		first = env
		if text, err := os.ReadFile(envFile); err != nil || string(text) != env.String() ||
			envFile != filepath.Join(dir, "env") {
			t.Errorf("%s: got %q, %v, want %q", envFile, text, err, env)
		}
		if read, err := dev.ReadEnvironment(dir); err != nil || !slices.Equal(read, env) {
			t.Errorf("ReadEnvironment: got %q, %v, want %q", read, err, env)
		}
	})
	if _, err := os.Stat(filepath.Join(dir, "env")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file env after Run: got %v, want fs.ErrNotExist", err)
	}
	for _, name := range []string{"KMSGATE_ENDPOINT", "KMSGATE_ACCESS_KEY_ID", "KMSGATE_ACCESS_KEY_SECRET", "KMSGATE_CLIENT_KEY_PASSWORD", "KMSGATE_KEY_EC_SM2", "KMSGATE_KEYVERSION_RSA_3072"} {
		if first.Get(name) == "" {
			t.Errorf("the environment lacks %s", name)
		}
	}
	// A killed gateway leaves the file.
	if env, err := dev.ReadEnvironment(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadEnvironment after Run: got %q, %v, want fs.ErrNotExist", env, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "env"), []byte("export KMSGATE_ENDPOINT=old"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, dev.Options{Dir: dir}, func(_ string, env dev.Environment) { second = env })
	if !slices.Equal(withoutEndpoint(first), withoutEndpoint(second)) {
		t.Errorf("second run: got %v, want %v", second, first)
	}
	if _, err := os.Stat(filepath.Join(dir, config.FileName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a configuration without a token was written: %v", err)
	}
}

// TestProvision tests that Provision creates nothing twice, and completes an interrupted start.
func TestProvision(t *testing.T) {
	text := "instance: {id: kst-test, region: cn-hangzhou, account: '1'}\ntoken: {softhsm: unused}\nlisteners: [{address: '127.0.0.1:0'}]\n"
	c, err := config.Parse([]byte(text), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, err := appliance.Open(t.Context(), c, appliance.Options{Provision: true, Device: softwarekeys.Device, Logger: config.Log{}.Quiet(t.Output())})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	provision := func() dev.Environment {
		t.Helper()
		env, notices, err := dev.Provision(t.Context(), a)
		if err != nil || notices != nil {
			t.Fatalf("Provision: %v, notices %q, want none", err, notices)
		}
		return env
	}
	first := provision()
	if again := provision(); !slices.Equal(first, again) {
		t.Errorf("second Provision: got %v, want %v", again, first)
	}
	// An interrupted start can leave a key without its alias.
	if err := a.Server.Call(t.Context(), "DeleteAlias", map[string]string{"AliasName": "alias/dev-ec-p256"},
		nil); err != nil {
		t.Fatal(err)
	}
	if again := provision(); !slices.Equal(first, again) {
		t.Errorf("Provision without an alias: got %v, want %v", again, first)
	}
	if n := a.Store.Now().Keys().Len(); n != 5 {
		t.Errorf("Provision created %d keys, want 5", n)
	}
	// A disabled access key is useless, so Provision creates another one of the same user.
	if err := a.Server.Call(t.Context(), "UpdateAccessKey", map[string]string{"AccessKeyId": first.Get("KMSGATE_ACCESS_KEY_ID"), "Status": "Inactive"}, nil); err != nil {
		t.Fatal(err)
	}
	if again := provision(); again.Get("KMSGATE_ACCESS_KEY_ID") == first.Get("KMSGATE_ACCESS_KEY_ID") ||
		a.Store.Now().Users().Len() != 1 {
		t.Errorf("Provision with a disabled access key: got %v, want another key of the same user", again)
	}
}

// TestUnusableKeys tests that a gateway starts although its keys are disabled or to be deleted and
// their aliases gone. It leaves these keys alone, and has others in their places.
func TestUnusableKeys(t *testing.T) {
	dir := t.TempDir()
	var first, second dev.Environment
	call := func(env dev.Environment, answer any, action string, parameters ...string) {
		t.Helper()
		all := make(map[string]string)
		for i := 0; i < len(parameters); i += 2 {
			all[parameters[i]] = parameters[i+1]
		}
		if err := adminclient.Dial(env.Get("KMSGATE_ADMIN_SOCKET")).Call(t.Context(), action, all, answer); err != nil {
			t.Errorf("%s %q: %v", action, parameters, err)
		}
	}
	run(t, dev.Options{Dir: dir}, func(_ string, env dev.Environment) {
		first = env
		call(env, nil, "ScheduleKeyDeletion", "KeyId", env.Get("KMSGATE_KEY_EC_P256"), "PendingWindowInDays", "7")
		call(env, nil, "DisableKey", "KeyId", env.Get("KMSGATE_KEY_EC_SM2"))
		call(env, nil, "DeleteAlias", "AliasName", "alias/dev-ec-p256k")
		call(env, nil, "ScheduleKeyDeletion", "KeyId", env.Get("KMSGATE_KEY_EC_P256K"), "PendingWindowInDays", "7")
	})
	states := map[string]string{"EC_P256": "PendingDeletion", "EC_SM2": "Disabled", "EC_P256K": "PendingDeletion"}
	check := func(env dev.Environment) {
		t.Helper()
		for spec, state := range states {
			var old, named kms.DescribeKeyResponse
			keyId, alias := env.Get("KMSGATE_KEY_"+spec), "alias/dev-"+strings.ToLower(strings.ReplaceAll(spec, "_", "-"))
			call(env, &old, "DescribeKey", "KeyId", first.Get("KMSGATE_KEY_"+spec))
			call(env, &named, "DescribeKey", "KeyId", alias)
			if old.KeyMetadata.KeyState != state || keyId == old.KeyMetadata.KeyId || named.KeyMetadata.KeyId != keyId {
				t.Errorf("%s: the key is %s, its alias names %s, the old key is %+v, want another key with the alias, and the old one %s",
					spec, keyId, named.KeyMetadata.KeyId, old.KeyMetadata, state)
			}
			call(env, nil, "TestKeyVersion", "KeyId", keyId, "KeyVersionId", env.Get("KMSGATE_KEYVERSION_"+spec))
		}
		if env.Get("KMSGATE_KEY_RSA_2048") != first.Get("KMSGATE_KEY_RSA_2048") {
			t.Error("a key that can sign was replaced")
		}
	}
	runWithNotices(t, dev.Options{Dir: dir}, func(_ string, env dev.Environment, notices []string) {
		second = env
		check(env)
		text := strings.Join(notices, "\n")
		for spec, state := range states {
			want := fmt.Sprintf("now names key %s, because key %s is %s", env.Get("KMSGATE_KEY_"+spec), first.Get("KMSGATE_KEY_"+spec), state)
			if len(notices) != len(states) || !strings.Contains(text, want) {
				t.Errorf("Run: got the notices %q, want %q", notices, want)
			}
		}
	})
	run(t, dev.Options{Dir: dir}, func(_ string, env dev.Environment) { // no further keys
		check(env)
		if !slices.Equal(withoutEndpoint(env), withoutEndpoint(second)) {
			t.Errorf("third run: got %v, want %v", env, second)
		}
	})
}

// TestClientKeyReplaced tests that Run replaces a client key whose file or password is missing.
func TestClientKeyReplaced(t *testing.T) {
	dir := t.TempDir()
	passwords := make(map[string]bool)
	start := func() (file, password string) {
		run(t, dev.Options{Dir: dir}, func(_ string, env dev.Environment) {
			file, password = env.Get("KMSGATE_CLIENT_KEY_FILE"), env.Get("KMSGATE_CLIENT_KEY_PASSWORD")
		})
		return file, password
	}
	file, password := start()
	passwords[password] = true
	for _, spoil := range []func() error{
		func() error { return os.Remove(file) },
		func() error { return os.Remove(filepath.Join(dir, "clientkey-password")) },
		func() error { return os.WriteFile(file, []byte("not JSON"), 0o600) },
		func() error { return os.WriteFile(file, []byte(`{"KeyId":"KAAP.none"}`), 0o600) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		_, password := start()
		if password == "" || passwords[password] {
			t.Errorf("got the password %q, want one that is not in %v", password, passwords)
		}
		passwords[password] = true
	}
}

// TestTemporary tests that Run without a directory leaves no files.
func TestTemporary(t *testing.T) {
	var dir string
	run(t, dev.Options{}, func(envFile string, _ dev.Environment) { dir = filepath.Dir(envFile) })
	if _, err := os.Stat(dir); dir == "" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory %q after Run: got %v, want fs.ErrNotExist", dir, err)
	}
}

// TestStoppedWhileStarting tests that Run returns no error if it is stopped during its start.
func TestStoppedWhileStarting(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := dev.Run(ctx, dev.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Appliance: appliance.Options{Device: softwarekeys.Device}}); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestBanner tests that the banner names the file with the secrets, but has none of them.
func TestBanner(t *testing.T) {
	env := dev.Environment{{"KMSGATE_ENDPOINT", "127.0.0.1:8443"}, {"KMSGATE_ACCESS_KEY_ID", "LTAI"},
		{"KMSGATE_ACCESS_KEY_SECRET", "hunter2"}, {"KMSGATE_KEY_EC_P256", "k"}, {"KMSGATE_CLIENT_KEY_PASSWORD", "hunter2"}}
	var b bytes.Buffer
	new(dev.Options).PrintBanner(&b, "/tmp/a dir/env", env, []string{"one", "two"})
	if text := b.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, "\n  note        one\n  note        two\n\n") || !strings.Contains(text, "127.0.0.1:8443") ||
		!strings.Contains(text, ". '/tmp/a dir/env'\n") || !strings.Contains(text, "curl ") {
		t.Errorf("PrintBanner: got %s", text)
	}
	if text := (dev.Environment{{"A", "b c"}, {"D", ""}}).String(); text != "export A='b c'\nexport D=''\n" ||
		env.Get("NONE") != "" {
		t.Errorf("String: got %q", text)
	}
}

// TestParseEnvironment reads text that a kmsgate dev did not write.
func TestParseEnvironment(t *testing.T) {
	for _, text := range []string{"A=b\n", "export A\n", "export A=b", "export A=$(b)\n", "export A='b\n", "export A=b c\n", "export A=b\n\n"} {
		if env, err := dev.ParseEnvironment(text); err == nil {
			t.Errorf("%q: got %q, want an error", text, env)
		}
	}
}

// TestStatus: an exit status is split from the other errors, and an error without one stays as it is.
func TestStatus(t *testing.T) {
	failed, other := &dev.StatusError{Status: 7}, errors.New("other")
	if status, rest := dev.Status(errors.Join(failed, other)); status != 7 || rest.Error() != "other" {
		t.Errorf("got %d, %v, want 7 and the other error", status, rest)
	}
	both := fmt.Errorf("%w in %q (%w)", other, "d", fs.ErrNotExist)
	if status, rest := dev.Status(both); status != 0 || rest != both {
		t.Errorf("got %d, %v, want 0 and %v", status, rest, both)
	}
}
