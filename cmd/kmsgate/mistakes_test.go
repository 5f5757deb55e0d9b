package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestMistakes makes mistakes on the command line. Each is explained in one line, its exit
// status is that of usage errors, and no gateway is asked.
func TestMistakes(t *testing.T) {
	large, broken := filepath.Join(t.TempDir(), "large.json"), filepath.Join(t.TempDir(), "broken.json")
	if err := errors.Join(os.WriteFile(large, make([]byte, cli.MaxDocument+1), 0o600), os.WriteFile(broken, []byte("{\n  \"Version\": 1,\n}"), 0o600)); err != nil {
		t.Fatal(err)
	}
	mistakes(t, map[string]string{
		"user create":                                     "NAME is missing: usage: kmsgate user create NAME [flags]",
		"user create alice bob":                           `unexpected argument "bob": usage: kmsgate user create NAME [flags]`,
		"user list all":                                   `unexpected argument "all": usage: kmsgate user list [flags]`,
		"user creat alice":                                `unknown command "kmsgate user creat": did you mean create? (see kmsgate user --help)`,
		"user creat alice --description":                  `unknown command "kmsgate user creat": did you mean create? (see kmsgate user --help)`,
		"sing --file x":                                   `unknown command "kmsgate sing": did you mean sign? (see kmsgate --help)`,
		"aliass list":                                     `unknown command "kmsgate aliass": did you mean alias? (see kmsgate --help)`,
		"user list -o yaml":                               `--output "yaml": must be one of table, json`,
		"user list --ouput json":                          "unknown flag --ouput: did you mean --output? (see kmsgate user list --help)",
		"user list --outputformat json":                   "unknown flag --outputformat (see kmsgate user list --help)",
		"user list -x":                                    "unknown flag -x (see kmsgate user list --help)",
		"user create alice --description":                 "--description needs a value",
		"user delete alice --yes=perhaps":                 `--yes "perhaps": must be one of true, false`,
		"accesskey create":                                "--user is missing (see kmsgate accesskey create --help)",
		"policy attach p":                                 "--user is missing (see kmsgate policy attach --help)",
		"policy create p --file /nonexistent":             "open /nonexistent: no such file or directory",
		"policy create p --file " + large:                 large + " is larger than 64 KiB",
		"policy create p --file -":                        "the standard input is empty",
		"policy create p --file " + broken:                broken + ":3:1: not JSON: invalid character '}' looking for beginning of object key string",
		"key create":                                      "--spec is missing: it is one of RSA_2048, RSA_3072, RSA_4096, EC_P256, EC_P256K, EC_SM2",
		"key create --spec EC_P512":                       `--spec "EC_P512": must be one of RSA_2048, RSA_3072, RSA_4096, EC_P256, EC_P256K, EC_SM2`,
		"key create --spec EC_P256 --tag a":               `tag "a" is not KEY=VALUE`,
		"key create --spec EC_P256 --alias x":             `400 InvalidParameter: The specified parameter "AliasName" is not valid: it must begin with alias/ and have at least one more character.`,
		"key list --state Gone":                           `--state "Gone": must be one of Enabled, Disabled, PendingDeletion`,
		"key tag k":                                       "KEY=VALUE is missing: usage: kmsgate key tag KEY KEY=VALUE… [flags]",
		"key tag k a":                                     `tag "a" is not KEY=VALUE`,
		"token test --count 0":                            `--count "0": must be 1 to 100`,
		"token test --count many":                         `--count "many": must be 1 to 100`,
		"token info extra":                                `unexpected argument "extra": usage: kmsgate token info [flags]`,
		"token info --module m.so":                        "--module needs --pin-file: give both or neither",
		"token info --label a --serial b":                 "--label and --serial exclude each other: give one of them",
		"policy simulate --user a --action AsymetricSign": `no operation is called "AsymetricSign": did you mean AsymmetricSign?`,
		"key describe k":                                  `unknown command "kmsgate key describe": did you mean show? (see kmsgate key --help)`,
		"user rm alice":                                   `unknown command "kmsgate user rm": did you mean delete? (see kmsgate user --help)`,
		"completion tcsh":                                 `unknown command "kmsgate completion tcsh": did you mean bash or fish or zsh? (see kmsgate completion --help)`,
		"completion bash x":                               `unexpected argument "x": usage: kmsgate completion bash`,
		"help nonsense":                                   `unknown command "kmsgate nonsense" (see kmsgate --help)`,
		"help key nonsense":                               `unknown command "kmsgate key nonsense" (see kmsgate key --help)`,
		"key list ---x":                                   `malformed flag "---x" (see kmsgate key list --help)`,
		"audit search f --since 2026-11-02 --until 2026-11-01":                                              "--since 2026-11-02 is not before --until 2026-11-01",
		"backup /dev/full --recipient age1xq33d62dfm0c6ypxy7cwtepe5k8kx2x3ya7nx3uzueka39nq6fzscxus4z --yes": `"/dev/full" is not a regular file: give another name, or - for the standard output`,
		"quota update --user a --quota b --qps=":                                                            "--qps is empty: give a value, or leave it out",
		"restore f --target= --identity i":                                                                  "--target is empty: give a value, or leave it out",
		"user list --socket=":                                                                               "--socket is empty: give a value, or leave it out",
		"accesskey create --user a --user b":                                                                `--user "b": given twice: give it once`,
		"token info --module m --pin-file p":                                                                "--module needs --label or --serial",
		"token info --module m --pin-file p --label l --user-type admin":                                    `--user-type "admin": must be user or crypto_user`,
		"dev --listen :8443":                                                                                `--listen ":8443": must be host:port, such as 127.0.0.1:8443, or 0.0.0.0:8443 for all addresses`,
		"key untag":                                                                                         "KEY is missing: usage: kmsgate key untag KEY TAGKEY… [flags]",
		"key schedule-deletion k":                                                                           "--days is missing (see kmsgate key schedule-deletion --help)",
		"quota update --user alice --quota asymmetric":                                                      "--qps is missing (see kmsgate quota update --help)",
		"backup":                            "FILE is missing: usage: kmsgate backup FILE [flags]",
		"backup f":                          "one of --recipient, --passphrase-file is missing (see kmsgate backup --help)",
		"restore f":                         "one of --identity, --passphrase-file is missing (see kmsgate restore --help)",
		"restore f --identity i":            "--target is missing (see kmsgate restore --help)",
		"restore f --target d":              "one of --identity, --passphrase-file is missing (see kmsgate restore --help)",
		"restore f --target d --identity i": "whose backup is it? Anyone who knows the recipient can make one: give --audit-public-key FILE, or --unverified if it never left your hands",
		"config check":                      "--config is missing (see kmsgate config check --help)",
		"config check f":                    `unexpected argument "f": usage: kmsgate config check --config FILE [flags]`,
		"serve":                             "--config is missing (see kmsgate serve --help)",
		"dev extra":                         `unexpected argument "extra": write -- before a command`,
		"doctor --timeout soon":             `--timeout "soon": must be a time with its unit, such as 30s or 10m`,
		"doctor --timeout 10ms":             "--timeout 10ms: must be at least 1s",
		"audit tail -n many":                `--lines "many": must be a whole number`,
		"audit tail -n -1":                  "--lines -1: must be 0 or more",
		"audit tail a b":                    `unexpected argument "b": usage: kmsgate audit tail [FILE] [flags]`,
		"audit search f --since yesterday":  `--since: "yesterday" is neither a time, such as 2026-11-22T08:00:00Z or 2026-11-22, nor a duration before now, such as 24h`,
	})
}

// mistakes runs command lines, and wants each to be refused with a message.
func mistakes(t *testing.T, lines map[string]string) {
	t.Helper()
	for line, want := range lines {
		g := new(fakeGateway)
		stdout, _, err := g.kmsgate("", strings.Fields(line)...)
		if err == nil || err.Error() != want || cli.ExitStatus(err) != cli.ExitUsage {
			t.Errorf("%s: got %v (exit status %d), want %s", line, err, cli.ExitStatus(err), want)
		}
		if stdout != "" || g.dialed > 0 {
			t.Errorf("%s: printed %q, dialed %d times", line, stdout, g.dialed)
		}
	}
}

// TestRefused passes on what the gateway says.
func TestRefused(t *testing.T) {
	refusal := errors.New("409 Rejected.Disabled: The key state is Disabled.")
	for _, c := range commandLines {
		g := &fakeGateway{answers: c.answers, refuse: make(map[string]error)}
		action, _, _ := strings.Cut(c.calls[0], " ")
		g.refuse[action] = refusal
		args := strings.Fields(strings.NewReplacer("{FILE}", "-", "{DIR}", t.TempDir()).Replace(c.line))
		stdout, _, err := g.kmsgate(aDocument, args...)
		if !errors.Is(err, refusal) || err.Error() != refusal.Error() || stdout != "" || g.closed != 1 {
			t.Errorf("%s: %v, printed %q, closed %d times", c.line, err, stdout, g.closed)
		}
	}
}

// TestErrorsAsJSON reports errors to programs, and each kind has its exit status.
func TestErrorsAsJSON(t *testing.T) {
	for _, c := range []struct {
		err  error
		args []string
		want string
	}{
		{kms.ErrKeyNotFound, []string{"key", "enable", "k", "-o", "json"}, `{"Error":"\"k\": 404 Forbidden.KeyNotFound: The specified Key is not found.","Code":"Forbidden.KeyNotFound","ExitStatus":3}`},
		{kms.ErrKeyPendingDeletion, []string{"key", "enable", "k", "-o", "json"}, `{"Error":"409 Rejected.PendingDeletion: The request was rejected because the key state is PendingDeletion.","Code":"Rejected.PendingDeletion","ExitStatus":4}`},
		{kms.ErrUnavailable, []string{"key", "enable", "k", "-o=json"}, `{"Error":"503 ServiceUnavailableTemporary: Service Unavailable Temporary.","Code":"ServiceUnavailableTemporary","ExitStatus":5}`},
		{kms.ErrInternal, []string{"key", "enable", "k", "--output", "json"}, `{"Error":"500 InternalFailure: Internal Failure.","Code":"InternalFailure","ExitStatus":1}`},
		{target.ErrUnreachable, []string{"key", "enable", "k", "-o", "json"}, `{"Error":"no gateway answers","Code":"","ExitStatus":5}`},
		{nil, []string{"key", "enable", "-o", "json"}, `{"Error":"KEY is missing: usage: kmsgate key enable KEY [flags]","Code":"","ExitStatus":2}`},
	} {
		root := rootCommand(&fakeGateway{refuse: map[string]error{"EnableKey": c.err}})
		root.SetArgs(c.args)
		err := root.Execute()
		var b bytes.Buffer
		cli.ReportError(&b, c.args, err)
		if got := compact(t, b.String()); got != c.want+"\n" {
			t.Errorf("%q: got %swant %s", c.args, got, c.want)
		}
	}
}

// TestUnmatchedActions: a policy with an action that does not exist is accepted, with a
// warning.
func TestUnmatchedActions(t *testing.T) {
	const document = `{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:AsymetricSign","kms:Get*","oss:GetObject"],"Resource":"*"}]}`
	for verb, yes := range map[string][]string{"create": nil, "update": {"--yes"}} {
		g := new(fakeGateway)
		stdout, stderr, err := g.kmsgate(document, append([]string{"policy", verb, "p", "--file", "-"}, yes...)...)
		const want = "kmsgate: warning: action \"kms:AsymetricSign\" matches no operation of this gateway: did you mean kms:AsymmetricSign?\n" +
			"kmsgate: warning: action \"oss:GetObject\" matches no operation of this gateway\n"
		if err != nil || stdout != "Policy p was "+verb+"d.\n" || stderr != want || len(g.calls) != 1 {
			t.Errorf("%s: got %v, printed %q, warned %q, want %q", verb, err, stdout, stderr, want)
		}
	}
}
