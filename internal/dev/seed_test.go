package dev_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/gateway/adminclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/hsm/privatekey"
	"github.com/kmsgate/kmsgate/hsm/software"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/dev"
	"github.com/kmsgate/kmsgate/internal/softwarekeys"
	"github.com/kmsgate/kmsgate/store"
)

// seedText is a seed with everything that one can have. The private key is in key.pem.
const seedText = `policies:
  - name: sign
    document: {Version: "1", Statement: [{Effect: Allow, Action: ["kms:*"], Resource: ["*"]}]}
users:
  - {name: app, description: tests, policies: [sign, AliyunKMSReadOnlyAccess], access_keys: [{id: LTAI0001, secret: s3cret}]}
keys:
  - id: key-1
    spec: EC_P256
    description: for tests
    aliases: [alias/one, alias/uno]
    tags: {team: app}
    policy: {Version: "1", Statement: [{Effect: Allow, Principal: {RAM: ["acs:ram::1:*"]}, Action: ["kms:*"], Resource: ["*"]}]}
    versions:
      - {id: 11111111-1111-4111-8111-111111111111, private_key_file: key.pem}
      - {id: 22222222-1111-4111-8111-111111111111}
  - {id: key-2, spec: EC_SM2, disabled: true, versions: [{id: 33333333-1111-4111-8111-111111111111}, {id: 55555555-1111-4111-8111-111111111111}]}
access_points:
  - {name: app, keys: [key-1], client_keys: [{id: KAAP.44444444-1111-4111-8111-111111111111, password: "Test-only-1"}]}
`

// writeSeed writes a seed and its private key, and returns the directory and the public key.
func writeSeed(t *testing.T) (dir string, public []byte) {
	t.Helper()
	dir = t.TempDir()
	k, err := privatekey.New(hsm.EC_P256)
	if err != nil {
		t.Fatal(err)
	}
	text, err := k.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"key.pem": string(text), "seed.yaml": seedText} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, k.Public()
}

// TestSeed runs a gateway with a seed, completes one that was interrupted, and runs it again.
func TestSeed(t *testing.T) {
	where, public := writeSeed(t)
	seed, err := dev.LoadSeed(filepath.Join(where, "seed.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	var first, keys string
	for range 3 {
		run(t, dev.Options{Dir: dir, Seed: seed}, func(_ string, env dev.Environment) {
			if all := allKeys(t, env.Get("KMSGATE_ADMIN_SOCKET")); keys != "" && all != keys {
				t.Errorf("the keys are now\n%s\nwere\n%s", all, keys)
			} else {
				keys = all
			}
			env = withoutEndpoint(env)
			if first == "" {
				first = fmt.Sprint(env)
			}
			if again := fmt.Sprint(env); again != first {
				t.Errorf("the environment is now %s, was %s", again, first)
			}
			for name, want := range map[string]string{
				"KMSGATE_ACCESS_KEY_ID": "LTAI0001", "KMSGATE_ACCESS_KEY_SECRET": "s3cret", "KMSGATE_CLIENT_KEY_PASSWORD": "Test-only-1",
				"KMSGATE_KEY_EC_P256": "key-1", "KMSGATE_KEYVERSION_EC_P256": "11111111-1111-4111-8111-111111111111", "KMSGATE_KEY_EC_SM2": "key-2",
			} {
				if got := env.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			if text, err := os.ReadFile(env.Get("KMSGATE_CLIENT_KEY_FILE")); err != nil || !strings.Contains(string(text), "KAAP.44444444-1111-4111-8111-111111111111") {
				t.Errorf("the client key is %q, %v", text, err)
			}
		})
		// An interrupted start can have created the client key and lost its file.
		if err := os.RemoveAll(filepath.Join(dir, "clientkeys")); err != nil {
			t.Fatal(err)
		}
	}
	// A start that is killed while the token makes a key pair leaves the pair as an orphan.
	interrupt(t, filepath.Join(dir, "kmsgate.db"), "key-1", "22222222-1111-4111-8111-111111111111")
	run(t, dev.Options{Dir: dir, Seed: seed}, func(_ string, env dev.Environment) {
		if all := allKeys(t, env.Get("KMSGATE_ADMIN_SOCKET")); strings.Count(all, "BEGIN PUBLIC KEY") != 2 || all == keys {
			t.Errorf("after an interrupted start the keys are\n%s", all)
		}
	})
	for want, n := range map[string]int{"DEV_SEED": 1, "Aliyun_KMS": 1, "KeyState:Disabled": 1, "KeyState:Enabled": 1, "BEGIN PUBLIC KEY": 2} {
		if got := strings.Count(keys, want); got != n {
			t.Errorf("the keys have %q %d times, want %d:\n%s", want, got, n, keys)
		}
	}
	texts, err := filepath.Glob(filepath.Join(dir, "software", "1111*.pem"))
	if err != nil || len(texts) != 1 {
		t.Fatalf("the files are %q, %v", texts, err)
	}
	text, err := os.ReadFile(texts[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := privatekey.Parse(text); err != nil || !bytes.Equal(got.Public(), public) {
		t.Errorf("the key is not the seed's: %v", err)
	}
	without := filepath.Join(t.TempDir(), "without")
	run(t, dev.Options{Dir: without}, func(string, dev.Environment) {})
	for want, o := range map[string]dev.Options{
		"was made from a seed: give --seed": {Dir: dir},
		"was made from another seed":        {Dir: dir, Seed: changedSeed(t)},
		"was made without a seed":           {Dir: without, Seed: seed},
		"has instance":                      {Dir: without, Account: "42"},
	} {
		o.Listen, o.Appliance.Device = "127.0.0.1:0", softwarekeys.Device
		if err := dev.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// TestSeedKeyToBeDeleted tests that a gateway with a seed starts although keys of the seed are to be
// deleted. It leaves them alone, and the environment does not name them.
func TestSeedKeyToBeDeleted(t *testing.T) {
	where, _ := writeSeed(t)
	seed, err := dev.LoadSeed(filepath.Join(where, "seed.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run(t, dev.Options{Dir: dir, Seed: seed}, func(_ string, env dev.Environment) {
		c := adminclient.Dial(env.Get("KMSGATE_ADMIN_SOCKET"))
		err := c.Call(t.Context(), "DeleteAlias", map[string]string{"AliasName": "alias/one"}, nil)
		for _, keyId := range []string{"key-1", "key-2"} {
			parameters := map[string]string{"KeyId": keyId, "PendingWindowInDays": "7"}
			err = errors.Join(err, c.Call(t.Context(), "ScheduleKeyDeletion", parameters, nil))
		}
		if err != nil {
			t.Error(err)
		}
	})
	runWithNotices(t, dev.Options{Dir: dir, Seed: seed}, func(_ string, env dev.Environment, notices []string) {
		for _, name := range []string{"KMSGATE_KEY_EC_P256", "KMSGATE_KEY_EC_SM2"} {
			if id := env.Get(name); id != "" {
				t.Errorf("%s is %q, want no key, because it is to be deleted", name, id)
			}
		}
		c := adminclient.Dial(env.Get("KMSGATE_ADMIN_SOCKET"))
		for i, keyId := range []string{"key-1", "key-2"} {
			var k kms.DescribeKeyResponse
			err := c.Call(t.Context(), "DescribeKey", map[string]string{"KeyId": keyId}, &k)
			if err != nil || k.KeyMetadata.KeyState != "PendingDeletion" {
				t.Errorf("%s: got state %s, %v, want PendingDeletion", keyId, k.KeyMetadata.KeyState, err)
			}
			if len(notices) != 2 || !strings.Contains(notices[i], "kmsgate key cancel-deletion "+keyId) {
				t.Errorf("notices: got %q, want one about %s", notices, keyId)
			}
		}
	})
}

// interrupt makes a key version an orphan, as it is while it is created.
func interrupt(t *testing.T, database, keyId, versionId string) {
	t.Helper()
	keys, err := software.Open(filepath.Join(filepath.Dir(database), "software"), false)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), database, keys, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	v, err := db.Now().Version(keyId, versionId)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *store.Tx) error {
		return errors.Join(tx.Versions().Delete(keyId+"/"+versionId),
			tx.Orphans().Put(store.Orphan{KeyVersionId: versionId, Since: v.CreationDate, Key: hsm.Key{ID: v.Key.ID, Spec: v.Key.Spec}}))
	}); err != nil {
		t.Fatal(err)
	}
}

// allKeys returns what a gateway says of its keys, with the public keys of all versions.
func allKeys(t *testing.T, socket string) (all string) {
	t.Helper()
	c := adminclient.Dial(socket)
	ask := func(action string, answer any, parameters map[string]string) {
		t.Helper()
		if err := c.Call(t.Context(), action, parameters, answer); err != nil {
			t.Fatal(err)
		}
	}
	for _, keyId := range []string{"key-1", "key-2"} {
		var k kms.DescribeKeyResponse
		ask("DescribeKey", &k, map[string]string{"KeyId": keyId})
		all += fmt.Sprintf("%+v\n", k.KeyMetadata)
		var versions kms.ListKeyVersionsResponse
		ask("ListKeyVersions", &versions, map[string]string{"KeyId": keyId})
		for _, v := range versions.KeyVersions.KeyVersion {
			all += v.KeyVersionId
			if k.KeyMetadata.KeyState == "Disabled" { // KMS then shows no public key
				continue
			}
			var public kms.GetPublicKeyResponse
			ask("GetPublicKey", &public, map[string]string{"KeyId": keyId, "KeyVersionId": v.KeyVersionId})
			all += public.PublicKey
		}
	}
	return all
}

// TestOptions: options that make no gateway are refused before anything is created.
func TestOptions(t *testing.T) {
	for want, o := range map[string]dev.Options{
		"instance.account": {Account: "acme"},
		"instance.region":  {Region: "no region"},
		"instance.id":      {Instance: "no id"},
		"tls.names":        {Names: []string{"kms:8443"}},
	} {
		o.Dir, o.Listen, o.Appliance.Device = filepath.Join(t.TempDir(), "new"), "127.0.0.1:0", softwarekeys.Device
		ctx, stop := context.WithCancel(t.Context())
		o.Ready = func(string, dev.Environment, []string) { stop() } // it must not come to that
		if err := dev.Run(ctx, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
		stop()
		if _, err := os.Stat(o.Dir); err == nil {
			t.Errorf("%s: the directory was created", want)
		}
	}
}

// TestCommandNotRun: a start that is stopped before the command is run has not succeeded.
func TestCommandNotRun(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	err := dev.Run(ctx, dev.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Command: []string{"true"}, Appliance: appliance.Options{Device: softwarekeys.Device}})
	if status, rest := dev.Status(err); status != 143 || rest != nil {
		t.Errorf("got status %d, %v, want 143", status, rest)
	}
	// At the last moment: Ready comes just before the command.
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	mark := filepath.Join(t.TempDir(), "mark")
	err = dev.Run(ctx, dev.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Command: []string{"touch", mark},
		Appliance: appliance.Options{Device: softwarekeys.Device}, Ready: func(string, dev.Environment, []string) { stop() }})
	if status, rest := dev.Status(err); status != 143 || rest != nil {
		t.Errorf("stopped at the last moment: got status %d, %v, want 143", status, rest)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the command was run")
	}
}

func changedSeed(t *testing.T) *dev.Seed {
	t.Helper()
	seed, err := dev.ParseSeed([]byte("keys: []\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

// TestSeedWithoutUsers: a seed without an access key has one that may do everything.
func TestSeedWithoutUsers(t *testing.T) {
	run(t, dev.Options{Seed: changedSeed(t)}, func(_ string, env dev.Environment) {
		if env.Get("KMSGATE_ACCESS_KEY_SECRET") == "" || env.Get("KMSGATE_CLIENT_KEY_FILE") != "" {
			t.Errorf("the environment is %v", env)
		}
	})
}

// TestSeedMistakes: each mistake in a seed is named.
func TestSeedMistakes(t *testing.T) {
	dir, _ := writeSeed(t)
	for want, replace := range map[string][2]string{
		"there is no field secrets":                                     {"secret:", "secrets:"},
		`policy "sign" has no document`:                                 {"    document: {Version: \"1\", Statement: [{Effect: Allow, Action: [\"kms:*\"], Resource: [\"*\"]}]}\n", ""},
		"one user has no name":                                          {"name: app, description", "name: '', description"},
		`user "app" is there twice`:                                     {"users:\n", "users:\n  - {name: app}\n"},
		`access key "LTAI 1": its id must`:                              {"LTAI0001", "LTAI 1"},
		`access key "LTAI0001" has no secret`:                           {", secret: s3cret", ""},
		`key "key 1": its id must`:                                      {"id: key-1\n", "id: key 1\n"},
		`key "key-1" is there twice`:                                    {"id: key-2", "id: key-1"},
		`spec "EC" is not one of`:                                       {"spec: EC_P256", "spec: EC"},
		`alias "one": 400 InvalidParameter`:                             {"alias/one", "one"},
		`alias "alias/one" is there twice`:                              {"alias/uno", "alias/one"},
		`key "key-2" has no versions`:                                   {"versions: [{id: 33333333-1111-4111-8111-111111111111}, {id: 55555555-1111-4111-8111-111111111111}]", "versions: []"},
		`version "x" of key "key-2": its id must be`:                    {"33333333-1111-4111-8111-111111111111", "x"},
		`version "22222222-1111-4111-8111-111111111111" is there twice`: {"33333333", "22222222"},
		"none.pem: no such file":                                        {"key.pem", "none.pem"},
		"its private key: it has no private key in PEM":                 {"key.pem", "seed.yaml"},
		"its private key is of KeySpec EC_P256, not EC_SM2":             {"spec: EC_P256", "spec: EC_SM2"},
		"both private_key and private_key_file":                         {"private_key_file: key.pem", "private_key: x, private_key_file: key.pem"},
		"one version has no id":                                         {"{id: 22222222-1111-4111-8111-111111111111}", "{private_key: x}"},
		`policy "sign": `:                                               {"Effect: Allow, Action: [\"kms:*\"]", "Effect: Permit, Action: [\"kms:*\"]"},
		`policy "si gn" must have`:                                      {"name: sign", "name: si gn"},
		`user "app": policy "AliyunKMSNone" is neither`:                 {"AliyunKMSReadOnlyAccess", "AliyunKMSNone"},
		`policy "AliyunKMSFullAccess" is a system policy`:               {"name: sign", "name: AliyunKMSFullAccess"},
		`user "kmsgate" is reserved`:                                    {"name: app, description", "name: kmsgate, description"},
		`the tag "acs:team" is reserved`:                                {"{team:", "{acs:team:"},
		`user "app" has policy "sign" twice`:                            {"[sign,", "[sign, sign,"},
		`key "key-1": its policy: `:                                     {"Effect: Allow, Principal", "Effect: Permit, Principal"},
		`client key "KAAP.44444444-1111-4111-8111-111111111111": `:      {"Test-only-1", "x"},
		`the seed has no key "key-3"`:                                   {"keys: [key-1]", "keys: [key-3]"},
		`its id must be KAAP. and a UUID`:                               {"KAAP.44444444", "KAAP.4444"},
	} {
		text := strings.Replace(seedText, replace[0], replace[1], 1)
		if _, err := dev.ParseSeed([]byte(text), dir); text == seedText || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// FuzzParseSeed checks that no text makes ParseSeed panic.
func FuzzParseSeed(f *testing.F) {
	f.Add([]byte(seedText))
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = dev.ParseSeed(text, "/nonexistent") })
}
